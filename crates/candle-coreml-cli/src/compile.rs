//! `candle-coreml compile`: packages to compiled models, and back.

use std::path::PathBuf;

use candle_coreml::format::model::Model;
use candle_coreml::write::compile;

use crate::CommandResult;

const EXAMPLES: &str = "\
Examples:
  candle-coreml compile model.mlpackage                     model.mlmodelc beside it
  candle-coreml compile model.mlpackage -o App/model.mlmodelc
  candle-coreml compile model.mlmodelc -o model.mlpackage   the package of a compiled model";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: an ML Program as .mlpackage or .mlmodel, or a compiled one (.mlmodelc), which becomes a package.
    model: PathBuf,
    /// The new model [default: beside the model, with the other extension].
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let model = Model::open(&arguments.model)?;
    let back = compile::is_compiled(&arguments.model);
    let extension = if back { "mlpackage" } else { "mlmodelc" };
    let to = arguments.out.unwrap_or_else(|| arguments.model.with_extension(extension));
    if back {
        compile::decompile(&model, &to)?
    } else {
        compile::compile(&model, &to)?
    }
    out!("{}", to.display())?;
    Ok(())
}
