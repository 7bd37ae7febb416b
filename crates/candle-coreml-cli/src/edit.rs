//! `candle-coreml edit`: metadata, names, the default function, precision and batch of a model.

use std::path::PathBuf;

use candle_coreml::format::model::Model;
use candle_coreml::write::batch::{Batch, Extent};
use candle_coreml::write::edit::Changes;
use candle_coreml::write::edit_model;
use candle_coreml::write::passes::{Half, Passes, Report};

use crate::CommandResult;

const EXAMPLES: &str = "\
Examples:
  candle-coreml edit model.mlpackage --out new.mlpackage --author \"A. Name\" --set com.anemll.info=tuned
  candle-coreml edit model.mlmodel --out new.mlmodel --license MIT --unset key
  candle-coreml edit model.mlpackage --out new.mlpackage --rename x=input_ids --default-function prefill
  candle-coreml edit model.mlpackage --out new.mlpackage --optimize --precision fp16     float32 to fp16, as coremltools does
  candle-coreml edit model.mlpackage --out new.mlpackage --precision fp16 --fp16-features --keep-fp32 layer_norm
  candle-coreml edit model.mlpackage --out new.mlpackage --batch 1..8     a fixed first extent of the inputs to a range";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: .mlpackage, .mlmodel (metadata of any type) or .mlmodelc (ML Programs).
    model: PathBuf,
    /// The new model.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Short description.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Version.
    #[arg(long = "model-version", value_name = "TEXT")]
    model_version: Option<String>,
    /// Author.
    #[arg(long, value_name = "TEXT")]
    author: Option<String>,
    /// Licence.
    #[arg(long, value_name = "TEXT")]
    license: Option<String>,
    /// Set a user-defined entry.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Remove a user-defined entry.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Function that runs when none is named.
    #[arg(long, value_name = "NAME")]
    default_function: Option<String>,
    /// Rename an input, output or state in every function that has it.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    rename: Vec<(String, String)>,
    /// Rename a function.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    rename_function: Vec<(String, String)>,
    /// Fold operations of constants; fuse scales, biases and batch norms into the products before them.
    #[arg(long)]
    optimize: bool,
    /// Compute in this precision; inputs and outputs keep their types.
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Inputs and outputs of float32 in fp16, too.
    #[arg(long, requires = "precision")]
    fp16_features: bool,
    /// Keep float32 for a type of operations, an operation, or what makes a value.
    #[arg(long, value_name = "NAME", requires = "precision")]
    keep_fp32: Vec<String>,
    /// Number of rows of a prediction: the first extent of the inputs.
    #[arg(long, value_name = "N|N..M")]
    batch: Option<Extent>,
    /// An input whose first extent is the batch; all arrays if omitted.
    #[arg(long, value_name = "NAME", requires = "batch")]
    batch_input: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Precision {
    /// 16-bit floats, as the Neural Engine computes.
    Fp16,
}

/// `left=right`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (left, right) = text.split_once('=').ok_or("expected `name=value`")?;
    Ok((left.to_owned(), right.to_owned()))
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let set = arguments.set.into_iter().map(|(key, value)| (key, Some(value)));
    let changes = Changes {
        description: arguments.description,
        version: arguments.model_version,
        author: arguments.author,
        license: arguments.license,
        user: set.chain(arguments.unset.into_iter().map(|key| (key, None))).collect(),
        default_function: arguments.default_function,
        features: arguments.rename,
        functions: arguments.rename_function,
        batch: arguments.batch.map(|extent| Batch { extent, inputs: arguments.batch_input }),
        passes: Passes {
            half: arguments
                .precision
                .map(|Precision::Fp16| Half { features: arguments.fp16_features, keep: arguments.keep_fp32 }),
            ..if arguments.optimize { Passes::usual() } else { Passes::default() }
        },
    };
    let report = edit_model(&Model::open(&arguments.model)?, &changes, &arguments.out)?;
    if !changes.passes.is_empty() {
        note!("{}", show(&report));
    }
    out!("{}", arguments.out.display())?;
    Ok(())
}

/// What the rewrites did, in lines.
fn show(report: &Report) -> String {
    let Report { folded, fused, halved, kept, .. } = report;
    let mut lines = vec![format!("folded {folded}, fused {fused}, in fp16 {halved}, kept in float32 {}", kept.len())];
    lines.extend(kept.iter().map(|k| format!("  {}: {} `{}`: {}", k.function, k.kind, k.name, k.reason)));
    lines.join("\n")
}
