//! `candle-coreml merge`: functions of several models in one, or models as a pipeline.

use std::path::PathBuf;

use candle_coreml::format::model::Model;
use candle_coreml::write::edit::{self, Source};

use crate::{CommandResult, format};

const EXAMPLES: &str = "\
Examples:
  candle-coreml merge infer=a.mlpackage prefill=b.mlpackage --out both.mlpackage
  candle-coreml merge one=a.mlpackage two=a.mlpackage:prefill --default two --out both.mlpackage
  candle-coreml merge --pipeline scaler.mlmodel classifier.mlpackage --out pipeline.mlpackage";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// `NAME=MODEL` or `NAME=MODEL:FUNCTION`; with --pipeline the models, in order.
    #[arg(required = true)]
    sources: Vec<String>,
    /// The new package.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Function that runs when none is named [default: the first].
    #[arg(long, value_name = "NAME", conflicts_with = "pipeline")]
    default: Option<String>,
    /// Run the models one after the other.
    #[arg(long)]
    pipeline: bool,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    if arguments.pipeline {
        let models = arguments.sources.iter().map(|path| Model::open(path.as_ref())).collect::<Result<Vec<_>, _>>()?;
        edit::pipeline(&models.iter().collect::<Vec<_>>(), &arguments.out)?;
        out!("{} models in {}", models.len(), arguments.out.display())?;
        return Ok(());
    }
    let mut parts = Vec::new();
    for source in &arguments.sources {
        let (name, path) = super::edit::pair(source).map_err(|_| format!("`{source}`: expected `NAME=MODEL`"))?;
        // A colon may be part of a path.
        let (path, function) = match path.rsplit_once(':') {
            Some((model, function)) if !PathBuf::from(&path).exists() => (model.to_owned(), Some(function.to_owned())),
            _ => (path, None),
        };
        parts.push((name, Model::open(path.as_ref())?, function));
    }
    let default = arguments.default.or_else(|| Some(parts.first()?.0.clone())).unwrap_or_default();
    let sources: Vec<Source<'_>> = parts
        .iter()
        .map(|(name, model, function)| Source { name: name.clone(), model, function: function.clone() })
        .collect();
    let (before, after) = edit::merge(&sources, &default, &arguments.out)?;
    let (before, after) = (format::bytes(before), format::bytes(after));
    out!("{} functions in {}: {before} of weights, {after} stored", sources.len(), arguments.out.display())?;
    Ok(())
}
