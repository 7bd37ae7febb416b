//! Opens models: `.mlpackage` folders (with and without `Manifest.json`), bare `.mlmodel` files, compiled
//! `.mlmodelc` folders.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::blob::WeightFiles;
use crate::compiled;
use crate::description::ModelDescription;
use crate::file::{self, FileError};
use crate::mil_text::TextError;
use crate::program::Program;
use crate::spec::{self, SpecError};
use crate::verify::{VerifyError, verify};

/// Why a model can't be opened. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The path is there, but is not a model.
    #[error("{path} is not a Core ML model: expected {expected}, found {found}")]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What a model has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The specification can't be used.
    #[error("{path}: {source}")]
    Spec {
        /// The specification file.
        path: PathBuf,
        /// What is wrong with it.
        source: SpecError,
    },
    /// The text of a compiled model can't be used.
    #[error("{path}: {source}")]
    Text {
        /// The `model.mil`.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: TextError,
    },
    /// The program contradicts itself.
    #[error("{path}: {source}")]
    Program {
        /// The model.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: VerifyError,
    },
}

impl LoadError {
    /// Stable name of the kind of error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::NotAModel { .. } => "not-a-model",
            Self::Spec { .. } => "specification",
            Self::Text { .. } => "text",
            Self::Program { .. } => "program",
        }
    }
}

/// A model that is open: description, program and mapped weights.
#[derive(Debug, Clone)]
pub struct Model {
    /// Where it was opened.
    pub path: PathBuf,
    /// What it expects and returns.
    pub description: ModelDescription,
    /// Its functions.
    pub program: Program,
    /// Its weights.
    pub weights: WeightFiles,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    item_info_entries: HashMap<String, ManifestItem>,
    root_model_identifier: String,
}

#[derive(Deserialize)]
struct ManifestItem {
    path: String,
}

impl From<FileError> for LoadError {
    fn from(e: FileError) -> Self {
        LoadError::Io { path: e.path, source: e.cause.into() }
    }
}

/// Largest `Manifest.json`: it lists the few items of a package.
const LARGEST_MANIFEST: u64 = 1 << 20;
/// Largest specification: no protobuf message is longer.
const LARGEST_SPEC: u64 = i32::MAX as u64;

/// The specification that the manifest of a package names.
fn manifest_root(package: &Path, manifest: &Path) -> Result<PathBuf, LoadError> {
    let bad = |expected: &str, found: String| LoadError::NotAModel {
        path: manifest.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let content = file::read(manifest, LARGEST_MANIFEST)?;
    let parsed: Manifest = serde_json::from_slice(&content).map_err(|e| bad("a package manifest", e.to_string()))?;
    let item = parsed
        .item_info_entries
        .get(&parsed.root_model_identifier)
        .ok_or_else(|| bad("an entry for the root model", parsed.root_model_identifier.clone()))?;
    let relative = Path::new(&item.path);
    if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(bad("a path inside the package", item.path.clone()));
    }
    Ok(package.join("Data").join(relative))
}

/// Where packages keep their specification by custom.
const USUAL_SPECS: [&str; 2] = ["Data/com.apple.CoreML/model.mlmodel", "com.apple.CoreML/model.mlmodel"];

fn find_spec(path: &Path) -> Result<PathBuf, LoadError> {
    let manifest = path.join("Manifest.json");
    if manifest.exists() {
        return manifest_root(path, &manifest);
    }
    if let Some(spec) = USUAL_SPECS.iter().map(|s| path.join(s)).find(|p| p.exists()) {
        return Ok(spec);
    }
    let found = if path.join("model.espresso.net").exists() {
        "a compiled neural network (Espresso)"
    } else if path.join("coremldata.bin").exists() {
        "a compiled model without a model.mil"
    } else {
        "a folder with neither"
    };
    Err(LoadError::NotAModel {
        path: path.to_owned(),
        expected: "Manifest.json, Data/com.apple.CoreML/model.mlmodel or model.mil".to_owned(),
        found: found.to_owned(),
    })
}

impl Model {
    /// Opens a `.mlpackage` or `.mlmodelc` folder or a `.mlmodel` file; which of them is told by content, not by
    /// name.
    ///
    /// Reads the specification and checks it; weights are mapped when they are first used. Only regular files are
    /// opened: a specification of at most 2 GiB, as every protobuf message, a `model.mil` of at most 512 MiB, a manifest of
    /// at most 1 MiB.
    ///
    /// # Errors
    /// [`LoadError`] naming the file, what was expected and what was found.
    pub fn open(path: &Path) -> Result<Model, LoadError> {
        let kind = std::fs::metadata(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        let model = if kind.is_dir() && path.join("model.mil").exists() {
            compiled::open(path)?
        } else {
            Self::open_spec(path, if kind.is_dir() { find_spec(path)? } else { path.to_owned() })?
        };
        verify(&model.program).map_err(|source| LoadError::Program { path: path.to_owned(), source })?;
        Ok(model)
    }

    fn open_spec(path: &Path, file: PathBuf) -> Result<Model, LoadError> {
        let (description, program) = spec::decode(&file::read(&file, LARGEST_SPEC)?)
            .map_err(|source| LoadError::Spec { path: file.clone(), source })?;
        // `@model_path` is the folder of the specification.
        let root = file.parent().map(Path::to_owned);
        Ok(Model { path: path.to_owned(), description, program, weights: WeightFiles::new(root) })
    }
}
