//! `candle-coreml edit`: metadata, names and the default function of a model.

use std::path::PathBuf;

use candle_coreml::format::model::Model;
use candle_coreml::write::edit::{self, Changes};

use crate::CommandResult;

const EXAMPLES: &str = "\
Examples:
  candle-coreml edit model.mlpackage --out new.mlpackage --author \"A. Name\" --set com.anemll.info=tuned
  candle-coreml edit model.mlmodel --out new.mlmodel --license MIT --unset key
  candle-coreml edit model.mlpackage --out new.mlpackage --rename x=input_ids --default-function prefill";

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
    };
    edit::edit(&Model::open(&arguments.model)?, &changes, &arguments.out)?;
    out!("{}", arguments.out.display())?;
    Ok(())
}
