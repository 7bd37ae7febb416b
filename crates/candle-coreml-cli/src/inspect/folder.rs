//! `inspect` of a folder: what it holds, and how it would be driven.

use std::fmt::Write;
use std::path::Path;

use candle_coreml::anemll::{Pipeline, discovery};
use candle_coreml::format::model::{LoadError, Model};
use candle_coreml::generation::{Recommended, Tokenizer};
use candle_coreml::{EngineChoice, Error, engine::EngineOptions};
use serde_json::json;

use crate::{CommandResult, hint, write};

/// A folder that holds neither a model of its own nor a language model.
#[derive(Debug)]
struct Neither {
    model: LoadError,
    language: Error,
}

impl std::fmt::Display for Neither {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; it is no language model either: {}", self.model, self.language)
    }
}

impl std::error::Error for Neither {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.model)
    }
}

/// The error for a folder whose parts make no language model; one without parts is no model at all.
fn neither(folder: &Path, language: Error) -> Box<dyn std::error::Error> {
    match Model::open(folder) {
        Err(model) if hint::holds_models(folder) => Box::new(Neither { model, language }),
        _ => Box::new(language),
    }
}

pub(super) fn report(folder: &Path, as_json: bool) -> CommandResult {
    let options = EngineOptions { choice: EngineChoice::Portable, ..EngineOptions::default() };
    let load = || {
        let components = discovery::discover(folder)?;
        let pipeline = Pipeline::from_components_with(&components, &options)?;
        Ok((components, pipeline))
    };
    let (components, pipeline) = load().map_err(|reason| neither(folder, reason))?;
    let sizes = pipeline.dimensions();
    let tokenizer = Tokenizer::load(folder);
    let meta = &components.meta;
    let recommended = if pipeline.greedy_only() { Recommended::greedy() } else { Recommended::read(folder) };
    let files: Vec<(String, String)> = pipeline
        .functions()
        .map(|f| {
            let file = f.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            (file, f.function().to_owned())
        })
        .collect();
    if as_json {
        let all = json!({
            "path": folder,
            "layout": pipeline.layout(),
            "dimensions": sizes,
            "greedy_only": pipeline.greedy_only(),
            "architecture": meta.architecture,
            "recommended_sampling": recommended,
            "functions": files.iter().map(|(file, function)| json!({"file": file, "function": function})).collect::<Vec<_>>(),
            "end_tokens": tokenizer.as_ref().ok().map(|t| t.end_tokens()),
            "chat_template": tokenizer.as_ref().ok().map(|t| t.chat_template().is_some()),
            "tokenizer_error": tokenizer.as_ref().err().map(ToString::to_string),
        });
        return write::text(&format!("{}\n", serde_json::to_string_pretty(&all)?));
    }
    let mut out = format!("{}: a language model\n  layout: {}\n", folder.display(), pipeline.layout());
    if let Some(architecture) = &meta.architecture {
        let _ = writeln!(out, "  architecture: {architecture}");
    }
    let _ = writeln!(out, "  context: {} tokens, vocabulary: {}", sizes.context, sizes.vocab);
    if recommended != Recommended::default() {
        let _ = writeln!(out, "  recommended sampling: {}", serde_json::to_string(&recommended)?);
    }
    match &tokenizer {
        Ok(tokenizer) => {
            let template = if tokenizer.chat_template().is_some() { "with" } else { "without" };
            let _ = writeln!(out, "  tokenizer: {template} a chat template, end tokens {:?}", tokenizer.end_tokens());
        }
        Err(error) => {
            let _ = writeln!(out, "  tokenizer: {error}");
        }
    }
    for (file, function) in files {
        let _ = writeln!(out, "  runs {file}, function {function}");
    }
    write::text(&out)
}
