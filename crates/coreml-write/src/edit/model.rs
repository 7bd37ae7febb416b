//! Metadata, names and the default function of a model.

use std::io::Write;
use std::path::{Path, PathBuf};

use coreml_format::description::{FunctionDescription, Metadata, ModelDescription};
use coreml_format::model::Model;
use coreml_format::program::{Function, Program};
use coreml_format::write::PackageWriter;

use super::error::{EditError, Result};
use super::raw;
use super::repack::Repack;
use super::weights::program;
use crate::batch::Batch;
use crate::names;
use crate::passes::{self, Evaluate, Passes, Pool, Report};

/// Changes of a model.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Short description.
    pub description: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Author.
    pub author: Option<String>,
    /// Licence.
    pub license: Option<String>,
    /// User-defined entries; `None` removes one.
    pub user: Vec<(String, Option<String>)>,
    /// Default function.
    pub default_function: Option<String>,
    /// Inputs, outputs and states, from name to name, in every function that has them.
    pub features: Vec<(String, String)>,
    /// Functions, from name to name.
    pub functions: Vec<(String, String)>,
    /// Rewrites of the program, before anything is renamed.
    pub passes: Passes,
    /// Another batch, after the rewrites.
    pub batch: Option<Batch>,
}

impl Changes {
    fn metadata(&self, old: &Metadata) -> Metadata {
        let mut new = old.clone();
        let set = |to: &mut String, from: &Option<String>| {
            if let Some(text) = from {
                to.clone_from(text);
            }
        };
        set(&mut new.description, &self.description);
        set(&mut new.version, &self.version);
        set(&mut new.author, &self.author);
        set(&mut new.license, &self.license);
        for (key, value) in &self.user {
            match value {
                Some(value) => {
                    new.user.insert(key.clone(), value.clone());
                }
                None => {
                    new.user.shift_remove(key);
                }
            }
        }
        new
    }
}

/// Path of the specification in a package, or of a `.mlmodel` itself.
fn specification_path(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let manifest: Option<serde_json::Value> = coreml_format::file::read(&path.join("Manifest.json"), 1 << 20)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let named = manifest.and_then(|m| {
        let root = m["rootModelIdentifier"].as_str()?;
        Some(path.join("Data").join(m["itemInfoEntries"][root]["path"].as_str()?))
    });
    let usual = ["Data/com.apple.CoreML/model.mlmodel", "com.apple.CoreML/model.mlmodel"].map(|p| path.join(p));
    named.into_iter().chain(usual).find(|p| p.is_file())
}

/// Bytes of the specification of a model.
///
/// # Errors
/// [`EditError::Invalid`] if there is none, as in compiled models.
pub(crate) fn specification(path: &Path) -> Result<Vec<u8>> {
    let missing = || EditError::invalid(path, "the model", "a specification", "none, as in compiled models");
    let file = specification_path(path).ok_or_else(missing)?;
    let bytes = coreml_format::file::read(&file, i32::MAX as u64);
    bytes.map_err(|e| EditError::Io { path: e.path, source: e.cause.into() })
}

/// Writes a file beside its path and renames it when it is complete.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.exists() {
        let text = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it exists already");
        return Err(EditError::io(path)(text));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(EditError::io(path))?;
    file.write_all(bytes).map_err(EditError::io(path))?;
    file.persist(path).map_err(|e| EditError::io(path)(e.error))?;
    Ok(())
}

/// Writes a copy of a model with changes. Metadata can be changed for models of every type, names for ML Programs.
///
/// A `.mlmodel` becomes a `.mlmodel`, all others a package; a compiled model becomes a package, too.
///
/// # Errors
/// [`EditError::Invalid`] for names that are unknown or taken, and for renaming in other types than ML Programs.
pub fn edit(model: &Model, changes: &Changes, to: &Path) -> Result<()> {
    edit_with(model, changes, None, to).map(drop)
}

/// [`edit()`] with what computes constants for [`Passes::fold`]. Returns what the rewrites did.
///
/// # Errors
/// As [`edit()`]; [`EditError::Invalid`] for what a rewrite can't do.
pub fn edit_with(model: &Model, changes: &Changes, evaluate: Option<&mut Evaluate<'_>>, to: &Path) -> Result<Report> {
    let mut description = model.description.clone();
    description.metadata = changes.metadata(&description.metadata);
    let renames = !changes.features.is_empty() || !changes.functions.is_empty();
    let rewrites = renames || !changes.passes.is_empty() || changes.batch.is_some();
    if !rewrites && (specification_path(&model.path).is_some() || model.body.program().is_none()) {
        return edit_raw(model, changes, &description, to).map(|()| Report::default());
    }
    let mut new = program(model)?.clone();
    let mut pool = Pool::new(&model.weights, to).map_err(EditError::io(to))?;
    let report = passes::run(&mut new, &mut description, &changes.passes, &mut pool, evaluate)
        .map_err(|(place, found)| EditError::invalid(&model.path, place, "a program that can be rewritten", found))?;
    if let Some(batch) = &changes.batch {
        crate::batch::set_batch(&mut new, &mut description, batch, &mut pool)
            .map_err(|(place, found)| EditError::invalid(&model.path, place, "rows that are independent", found))?;
    }
    for (from, name) in &changes.functions {
        rename_function(model, &mut new, &mut description, from, name)?;
    }
    for (from, name) in &changes.features {
        let mut found = false;
        for (key, function) in &mut new.functions {
            let described = description.functions.entry(key.clone()).or_default();
            found |= rename_feature(model, key, function, described, from, name)?;
        }
        if !found {
            let known: Vec<&str> = description.functions.values().flat_map(features).collect();
            let found = format!("`{from}`");
            return Err(EditError::invalid(&model.path, "the features", format!("one of {}", known.join(", ")), found));
        }
    }
    if let Some(name) = &changes.default_function {
        known_function(model, &description, name)?;
        description.default_function.clone_from(name);
    }
    let mut repack = Repack::create(to)?;
    repack.adopt_pool(&mut new, &pool)?;
    repack.finish(&description, &new)?;
    Ok(report)
}

fn features(f: &FunctionDescription) -> impl Iterator<Item = &str> {
    f.inputs.iter().chain(&f.outputs).chain(&f.states).map(|f| f.name.as_str())
}

fn known_function(model: &Model, description: &ModelDescription, name: &str) -> Result<()> {
    if description.functions.contains_key(name) {
        return Ok(());
    }
    let known: Vec<&str> = description.functions.keys().map(String::as_str).collect();
    Err(EditError::invalid(&model.path, "the functions", format!("one of {}", known.join(", ")), format!("`{name}`")))
}

fn edit_raw(model: &Model, changes: &Changes, description: &ModelDescription, to: &Path) -> Result<()> {
    if let Some(name) = &changes.default_function {
        known_function(model, description, name)?;
        if description.functions.len() == 1 {
            let (expected, found) = ("a model with several functions", "one with one");
            return Err(EditError::invalid(&model.path, "the default function", expected, found));
        }
    }
    let old = specification(&model.path)?;
    let new = raw::with_metadata(&old, &description.metadata, changes.default_function.as_deref());
    let new = new.ok_or_else(|| EditError::invalid(&model.path, "the specification", "a protobuf message", "none"))?;
    if model.path.is_file() {
        return save(to, &new);
    }
    // The specification keeps its references to the files beside it.
    let file = specification_path(&model.path).unwrap_or_default();
    let writer = PackageWriter::create(to).map_err(EditError::io(to))?;
    writer.finish_beside(&new, &file).map_err(EditError::io(to))
}

fn is_name(name: &str) -> bool {
    name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn rename_function(
    model: &Model,
    program: &mut Program,
    description: &mut ModelDescription,
    from: &str,
    to: &str,
) -> Result<()> {
    known_function(model, description, from)?;
    if !is_name(to) || description.functions.contains_key(to) {
        let expected = "an unused name of letters, digits and `_`";
        return Err(EditError::invalid(&model.path, "the functions", expected, format!("`{to}`")));
    }
    let rename = |name: String| if name == from { to.to_owned() } else { name };
    program.functions = std::mem::take(&mut program.functions).into_iter().map(|(n, f)| (rename(n), f)).collect();
    description.functions =
        std::mem::take(&mut description.functions).into_iter().map(|(n, f)| (rename(n), f)).collect();
    description.default_function = rename(std::mem::take(&mut description.default_function));
    Ok(())
}

/// Renames a feature of a function; false if it has none of this name.
fn rename_feature(
    model: &Model,
    key: &str,
    function: &mut Function,
    described: &mut FunctionDescription,
    from: &str,
    to: &str,
) -> Result<bool> {
    if !features(described).any(|name| name == from) {
        return Ok(false);
    }
    let mut taken = Vec::new();
    names::defined(&function.block, &mut taken);
    taken.extend(function.inputs.iter().map(|i| i.name.as_str()));
    if !is_name(to) || taken.contains(&to) {
        let expected = "an unused name of letters, digits and `_`";
        return Err(EditError::invalid(&model.path, format!("function `{key}`"), expected, format!("`{to}`")));
    }
    let set = |name: &mut String| {
        if name == from {
            to.clone_into(name);
        }
    };
    let all = described.inputs.iter_mut().chain(&mut described.outputs).chain(&mut described.states);
    all.for_each(|f| set(&mut f.name));
    described.predicted_feature.iter_mut().for_each(set);
    described.predicted_probabilities.iter_mut().for_each(set);
    function.inputs.iter_mut().for_each(|i| set(&mut i.name));
    names::rename(&mut function.block, from, to);
    Ok(true)
}
