//! `candle-coreml split`: functions of a program, or parts of a pipeline, as models of their own.

use std::path::PathBuf;

use candle_coreml::format::model::Model;
use candle_coreml::write::edit;

use crate::CommandResult;

const EXAMPLES: &str = "\
Examples:
  candle-coreml split chunk.mlpackage --out parts      parts/chunk_infer.mlpackage, parts/chunk_prefill.mlpackage
  candle-coreml split pipeline.mlmodel --out parts     parts/pipeline_1_scaler.mlmodel, ...";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: several functions, or a pipeline.
    model: PathBuf,
    /// Folder of the parts.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let model = Model::open(&arguments.model)?;
    std::fs::create_dir_all(&arguments.out).map_err(|e| format!("{}: {e}", arguments.out.display()))?;
    let stem = arguments.model.file_stem().map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned());
    for path in edit::split(&model, &arguments.out, &stem)? {
        out!("{}", path.display())?;
    }
    Ok(())
}
