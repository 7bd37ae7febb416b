//! Opens models: `.mlpackage` folders (with and without `Manifest.json`), bare `.mlmodel` files, compiled
//! `.mlmodelc` folders.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::compiled;
use crate::file::{self, FileCause};
use crate::foreign;
use crate::model::{LoadError, Model};
use crate::model_types::{Body, Bytes};
use crate::spec::{self, Specification};
use crate::verify::{VerifyError, verify};
use crate::weights::Weights;

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

/// Maximum size of `Manifest.json`, which lists the few items of a package.
const LARGEST_MANIFEST: u64 = 1 << 20;
/// Placeholder for the path of an in-memory model.
const IN_MEMORY: &str = "model in memory";
/// Maximum size of a specification: the protobuf limit.
const LARGEST_SPEC: u64 = i32::MAX as u64;

/// Path of the specification named by the manifest of a package.
fn manifest_root(package: &Path, manifest: &Path) -> Result<PathBuf, LoadError> {
    let bad = |expected: &str, found: String| LoadError::NotAModel {
        path: manifest.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let content = file::read(manifest, LARGEST_MANIFEST)?;
    if let Some(found) = foreign::recognise(&content).filter(|_| content.first() != Some(&b'{')) {
        return Err(bad("a package manifest", found.to_owned()));
    }
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

/// Conventional paths of the specification in a package.
const USUAL_SPECS: [&str; 2] = ["Data/com.apple.CoreML/model.mlmodel", "com.apple.CoreML/model.mlmodel"];

fn find_spec(path: &Path) -> Result<PathBuf, LoadError> {
    let manifest = path.join("Manifest.json");
    if file::exists(&manifest) {
        return manifest_root(path, &manifest);
    }
    if let Some(spec) = USUAL_SPECS.iter().map(|s| path.join(s)).find(|p| file::exists(p)) {
        return Ok(spec);
    }
    let found = if file::exists(&path.join("model.espresso.net")) {
        "a compiled neural network (Espresso) without a description"
    } else if file::exists(&path.join("coremldata.bin")) {
        "a compiled model without a model.mil, and without a description"
    } else {
        &foreign::inside(path).unwrap_or_else(|| "a folder with neither".to_owned())
    };
    Err(LoadError::NotAModel {
        path: path.to_owned(),
        expected: "Manifest.json, Data/com.apple.CoreML/model.mlmodel or model.mil".to_owned(),
        found: found.to_owned(),
    })
}

impl Model {
    /// Opens a `.mlpackage` or `.mlmodelc` folder or a `.mlmodel` file, detected by content, not by name.
    ///
    /// Reads and validates the specification; weights are mapped on first use. Only regular files are opened: a
    /// specification of at most 2 GiB (the protobuf limit), a `model.mil` of at most 512 MiB, a manifest of at most 1
    /// MiB.
    ///
    /// # Errors
    /// [`LoadError`] with the file, the expected and the actual content.
    pub fn open(path: &Path) -> Result<Model, LoadError> {
        let is_folder = file::is_dir(path);
        if !is_folder && !file::exists(path) {
            // The system's word for it.
            std::fs::metadata(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        }
        let compiled = || {
            let readable =
                is_folder && file::exists(&path.join("coremldata.bin")) && !file::exists(&path.join("Manifest.json"));
            readable.then(|| compiled::open_description(path)).flatten()
        };
        let model = if is_folder && file::exists(&path.join("model.mil")) {
            compiled::open(path)?
        } else if let Some(model) = compiled() {
            model
        } else {
            Self::open_spec(path, if is_folder { find_spec(path)? } else { path.to_owned() })?
        };
        verified(model)
    }

    /// Bytes of the specification of a `.mlpackage` or `.mlmodel`: the protobuf message `CoreML.Specification.Model`, at most
    /// 2 GiB. They are not decoded.
    ///
    /// # Errors
    /// [`LoadError`] if there is no such file, or the model is compiled: it has no specification.
    pub fn specification(path: &Path) -> Result<Vec<u8>, LoadError> {
        let is_folder = file::is_dir(path);
        let has = |name: &str| is_folder && file::exists(&path.join(name));
        if (has("model.mil") || has("coremldata.bin")) && !has("Manifest.json") {
            return Err(LoadError::NotAModel {
                path: path.to_owned(),
                expected: "a .mlpackage or .mlmodel, which have a specification".to_owned(),
                found: "a compiled model".to_owned(),
            });
        }
        Ok(file::read(&if is_folder { find_spec(path)? } else { path.to_owned() }, LARGEST_SPEC)?)
    }

    /// Opens an in-memory model: the bytes of its specification (`model.mlmodel`) and its weight files.
    ///
    /// Validates it as [`Model::open`] does. Errors show its path as `model in memory`. Weights of neural networks are
    /// ranges of `specification`.
    ///
    /// # Errors
    /// [`LoadError`] if the bytes are not a specification, are inconsistent, or exceed 2 GiB. A missing or truncated
    /// weight file is an error of [`Weights::resolve`].
    pub fn from_bytes(specification: impl Into<Bytes>, weights: Weights) -> Result<Model, LoadError> {
        let (path, bytes) = (PathBuf::from(IN_MEMORY), specification.into());
        if bytes.len() as u64 > LARGEST_SPEC {
            let cause = FileCause::Size { limit: LARGEST_SPEC, found: bytes.len() as u64 };
            return Err(LoadError::Io { path, source: cause.into() });
        }
        let decoded = spec::decode(&bytes).map_err(|source| LoadError::Spec { path: path.clone(), source })?;
        let Specification { description, body, parts } = decoded;
        verified(Model { path, description, body, parts, weights })
    }

    fn open_spec(path: &Path, file: PathBuf) -> Result<Model, LoadError> {
        let bytes = file::map(&file, LARGEST_SPEC)?;
        let not = |expected: &str, found: String| LoadError::NotAModel {
            path: file.clone(),
            expected: expected.to_owned(),
            found,
        };
        if let Some(found) = foreign::recognise(&bytes) {
            return Err(not("a specification", found.to_owned()));
        }
        let decoded = spec::decode(&bytes).map_err(|source| LoadError::Spec { path: file.clone(), source })?;
        if path == file
            && let Some(weights) = file.parent().and_then(|folder| foreign::missing_weights(&decoded, folder))
        {
            let found = "a model.mlmodel taken out of its package: give the whole .mlpackage folder";
            return Err(not(&format!("its weights `{weights}` beside it"), found.to_owned()));
        }
        let Specification { description, body, parts } = decoded;
        // `@model_path` is the folder of the specification.
        let weights = file.parent().map(|folder| Weights::folder(folder.to_owned())).unwrap_or_default();
        Ok(Model { path: path.to_owned(), description, body, parts, weights })
    }
}

/// Returns the model if all of its programs are valid.
fn verified(model: Model) -> Result<Model, LoadError> {
    match verify_all(&model.body, &model.parts) {
        Ok(()) => Ok(model),
        Err(source) => Err(LoadError::Program { path: model.path, source }),
    }
}

/// Verifies every program of a model.
fn verify_all(body: &Body, parts: &[Specification]) -> Result<(), VerifyError> {
    body.program().map_or(Ok(()), verify)?;
    parts.iter().try_for_each(|part| verify_all(&part.body, &part.parts))
}
