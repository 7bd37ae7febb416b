//! Finds the components of a model in a folder.
//!
//! Packages are classified by their own descriptions: an embeddings model takes token ids, an FFN chunk has states, an
//! LM head maps hidden states to logits. File names only order chunks, tell `prefill` from `infer` where both have one
//! function, and choose among variants; `meta.yaml`, if present, decides which variant.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coreml_format::model::Model;

use super::ModelNamingConfig;
use crate::engine;
use crate::error::{Error, Result};

/// A function of an open package: the package and the function's name (`None`: the default).
pub type FunctionOf = (Arc<Model>, Option<String>);

/// One FFN chunk.
#[derive(Debug, Clone)]
pub struct ChunkFiles {
    /// Decodes one token.
    pub infer: FunctionOf,
    /// Processes a batch of prompt tokens.
    pub prefill: FunctionOf,
}

/// The components of a model.
#[derive(Debug, Clone)]
pub struct Components {
    /// Maps token ids to hidden states.
    pub embeddings: Arc<Model>,
    /// Transformer layers, in order.
    pub chunks: Vec<ChunkFiles>,
    /// Maps hidden states to logits.
    pub lm_head: Arc<Model>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Embeddings,
    /// Functions `prefill` and `infer` of one package.
    Combined,
    Prefill,
    Infer,
    Head,
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Role of a package, derived from its inputs, outputs and states.
fn role(model: &Model) -> Option<Role> {
    let functions = &model.description.functions;
    if functions.contains_key("infer") && functions.contains_key("prefill") {
        return Some(Role::Combined);
    }
    let main = model.description.function(None)?;
    let stateful = !main.states.is_empty()
        || engine::program(model)
            .iter()
            .flat_map(|program| program.functions.values())
            .any(|f| f.inputs.iter().any(|i| matches!(i.ty, coreml_format::program::ValueType::State(_))));
    if stateful && main.input("hidden_states").is_some() {
        let name = stem(&model.path).to_lowercase();
        let many = main.input("hidden_states").is_some_and(|f| match &f.ty {
            coreml_format::description::FeatureType::MultiArray { shape, .. } => shape.get(1).is_some_and(|&n| n > 1),
            _ => false,
        });
        return Some(if many || name.contains("prefill") { Role::Prefill } else { Role::Infer });
    }
    if main.inputs.len() != 1 {
        return None;
    }
    if main.input("input_ids").is_some() {
        return Some(Role::Embeddings);
    }
    let logits = main.outputs.iter().all(|o| o.name.to_lowercase().contains("logits"));
    (logits && !main.outputs.is_empty()).then_some(Role::Head)
}

/// The numbers in `…chunk_02of03`, else those in the metadata that the converter writes.
fn chunk_number(model: &Model) -> (usize, Option<usize>) {
    let name = stem(&model.path);
    let after = name.rsplit_once("chunk_").map(|(_, rest)| rest);
    if let Some((number, of)) = after.and_then(|r| r.split_once("of")) {
        let of: String = of.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(number) = number.parse() {
            return (number, of.parse().ok());
        }
    }
    let user = &model.description.metadata.user;
    let read = |key: &str| user.get(key).and_then(|v| v.trim().parse().ok());
    (read("com.anemll.chunk_no").unwrap_or(1), read("com.anemll.num_chunks"))
}

/// File stems that `meta.yaml` prefers: variants by quantization width.
fn preferred(folder: &Path) -> Vec<String> {
    let found = super::meta::read(&folder.join("meta.yaml"));
    found.unwrap_or_else(|e| {
        tracing::warn!("{e}: it is ignored");
        Vec::new()
    })
}

/// All models directly in a folder, opened. Keeps the first error, to report if a component is missing.
fn open_all(folder: &Path, keep: &dyn Fn(&str) -> bool) -> Result<(Vec<Arc<Model>>, Option<Error>)> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if matches!(extension.as_str(), "mlpackage" | "mlmodelc" | "mlmodel") && keep(&name) {
            paths.push(path);
        }
    }
    paths.sort();
    let (mut models, mut failure) = (Vec::new(), None);
    for path in paths {
        match open(&path) {
            Ok(model) => models.push(Arc::new(model)),
            Err(e) => {
                tracing::warn!("skipped: {e}");
                failure.get_or_insert(e);
            }
        }
    }
    Ok((models, failure))
}

/// Opens a model and checks that it can be lowered to a program.
fn open(path: &Path) -> Result<Model> {
    let model = Model::open(path)?;
    coreml_lower::lower(&model).map_err(|source| Error::Lower { path: path.to_owned(), source })?;
    Ok(model)
}

/// Finds the components in a folder.
///
/// # Errors
/// [`Error::Components`] naming the missing or ambiguous component; if one is missing and a package can't be opened,
/// that package's error.
pub fn discover(folder: &Path) -> Result<Components> {
    among(folder, &|_| true)
}

/// Finds the components among the files that `naming` matches, in a folder that holds several models.
///
/// # Errors
/// Same as [`discover`].
pub fn discover_named(folder: &Path, naming: &ModelNamingConfig) -> Result<Components> {
    among(folder, &|name| naming.matches(name))
}

fn among(folder: &Path, keep: &dyn Fn(&str) -> bool) -> Result<Components> {
    let (models, failure) = open_all(folder, keep)?;
    let preferred = preferred(folder);
    let of = |role_: Role| -> Vec<Arc<Model>> { models.iter().filter(|m| role(m) == Some(role_)).cloned().collect() };
    let fail = |message: String| Error::Components { path: folder.to_owned(), message };
    let mut failure = failure;
    let mut missing = |what: &str| {
        failure.take().unwrap_or_else(|| {
            let found: Vec<String> = models.iter().map(|m| stem(&m.path)).collect();
            fail(format!(
                "no {what} among its models ({})",
                if found.is_empty() { "none".into() } else { found.join(", ") }
            ))
        })
    };
    let one = |candidates: Vec<Arc<Model>>, what: &str| -> Result<Option<Arc<Model>>> {
        if candidates.len() > 1 {
            let chosen = candidates.iter().find(|m| preferred.contains(&stem(&m.path)));
            return match chosen {
                Some(m) => Ok(Some(m.clone())),
                None => {
                    let names: Vec<String> = candidates.iter().map(|m| stem(&m.path)).collect();
                    Err(fail(format!("several {what} models ({}) and no meta.yaml that says which", names.join(", "))))
                }
            };
        }
        Ok(candidates.into_iter().next())
    };
    let embeddings = one(of(Role::Embeddings), "embeddings")?.ok_or_else(|| missing("embeddings model"))?;
    let lm_head = one(of(Role::Head), "LM head")?.ok_or_else(|| missing("LM head"))?;
    let ordered = |role_: Role| -> Result<Vec<Arc<Model>>> {
        let mut all = of(role_);
        let variants = all.iter().filter(|m| preferred.iter().any(|p| stem(&m.path).starts_with(p.as_str())));
        let named: Vec<_> = variants.cloned().collect();
        if !named.is_empty() && named.len() < all.len() {
            all = named;
        }
        all.sort_by_key(|m| chunk_number(m).0);
        check_numbers(&all, folder)?;
        Ok(all)
    };
    let combined = ordered(Role::Combined)?;
    let chunks: Vec<ChunkFiles> = if combined.is_empty() {
        let (infer, prefill) = (ordered(Role::Infer)?, ordered(Role::Prefill)?);
        if infer.is_empty() {
            return Err(missing("FFN chunk"));
        }
        if !prefill.is_empty() && prefill.len() != infer.len() {
            return Err(fail(format!("{} FFN chunks but {} prefill chunks", infer.len(), prefill.len())));
        }
        infer
            .iter()
            .enumerate()
            .map(|(i, m)| {
                let batch = prefill.get(i).unwrap_or(m);
                ChunkFiles { infer: (m.clone(), None), prefill: (batch.clone(), None) }
            })
            .collect()
    } else {
        let function = |m: &Arc<Model>, name: &str| (m.clone(), Some(name.to_owned()));
        combined.iter().map(|m| ChunkFiles { infer: function(m, "infer"), prefill: function(m, "prefill") }).collect()
    };
    Ok(Components { embeddings, chunks, lm_head })
}

/// Checks that chunks are numbered 1, 2, … up to the count in their names.
fn check_numbers(chunks: &[Arc<Model>], folder: &Path) -> Result<()> {
    for (i, chunk) in chunks.iter().enumerate() {
        let (number, of) = chunk_number(chunk);
        let count = of.unwrap_or(chunks.len());
        if number != i + 1 || count != chunks.len() {
            return Err(Error::Components {
                path: folder.to_owned(),
                message: format!(
                    "chunk {} of {} is missing: {} is number {number} of {count}, and there are {} chunks",
                    i + 1,
                    count,
                    stem(&chunk.path),
                    chunks.len()
                ),
            });
        }
    }
    Ok(())
}
