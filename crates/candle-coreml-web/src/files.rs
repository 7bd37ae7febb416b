//! Files that the user gives: what models are among them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_coreml::anemll::discovery;
use candle_coreml::archive;
use candle_coreml::format::memory::MemoryFolder;
use candle_coreml::format::model::Model;
use candle_coreml::format::model_types::Bytes;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::failure::Failure;
use crate::{Chat, Predictor};

/// Files by path, as dropped into the page; archives are unpacked.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Files(Vec<(String, Bytes)>);

#[wasm_bindgen]
impl Files {
    /// No files.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, or the files of a zip archive.
    ///
    /// # Errors
    /// If an archive is damaged.
    pub fn add(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), JsError> {
        Ok(self.put(path, bytes)?)
    }

    /// Finds the models among the files.
    ///
    /// # Errors
    /// If there is none, or a path is no relative one.
    pub fn open(self) -> Result<Found, JsError> {
        Ok(self.found()?)
    }
}

impl Files {
    /// [`add`](Self::add).
    ///
    /// # Errors
    /// If an archive is damaged.
    pub fn put(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let path = path.trim_start_matches('/');
        if !archive::is_zip(&bytes) {
            self.0.push((path.to_owned(), bytes.into()));
            return Ok(());
        }
        let files = archive::unzip(path, &bytes)?;
        // `a.mlpackage.zip` of a package's content alone is that package; `a.zip` with packages in it is a folder.
        let stem = path.strip_suffix(".zip").unwrap_or(path);
        let bare = ["Manifest.json", "coremldata.bin", "model.mil"];
        let is_package = files.iter().any(|(name, _)| bare.contains(&name.as_str()));
        let named = |name: String| match (is_package, Path::new(path).parent()) {
            (true, _) => format!("{stem}/{name}"),
            (false, Some(folder)) if !folder.as_os_str().is_empty() => format!("{}/{name}", folder.display()),
            (false, _) => name,
        };
        self.0.extend(files.into_iter().map(|(name, bytes)| (named(name), bytes)));
        Ok(())
    }

    /// [`open`](Self::open).
    ///
    /// # Errors
    /// If there is none, or a path is no relative one.
    pub fn found(self) -> Result<Found, Failure> {
        let names: Vec<PathBuf> = self.0.iter().map(|(name, _)| PathBuf::from(name)).collect();
        let models: Vec<PathBuf> =
            names.iter().filter_map(|n| model_of(n, &names)).collect::<BTreeSet<_>>().into_iter().collect();
        let only = match names.as_slice() {
            // What it is, tells the error of opening it.
            [one] => Some(one.clone()),
            _ => None,
        };
        let models = if models.is_empty() { only.into_iter().collect() } else { models };
        if models.is_empty() {
            let count = names.len();
            return Err(Failure::new(format!(
                "expected a .mlpackage, .mlmodel or .mlmodelc, or a zip archive of one; found {count} other files"
            )));
        }
        let tokenizer =
            |name: &&PathBuf| name.file_name().is_some_and(|n| n == "tokenizer.json" || n == "tokenizer.model");
        let folder = names.iter().find(tokenizer).and_then(|n| n.parent()).map(Path::to_owned);
        let size = self.0.iter().map(|(_, bytes)| bytes.len()).sum();
        let memory = MemoryFolder::mount(self.0)?;
        let language = folder.filter(|folder| discovery::discover(&memory.root().join(folder)).is_ok());
        Ok(Found { memory, models, language, size })
    }
}

/// The model that a file belongs to: the file itself, or the outermost folder of a package or a compiled model.
fn model_of(file: &Path, all: &[PathBuf]) -> Option<PathBuf> {
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
    let folders: Vec<&Path> = file.ancestors().skip(1).filter(|f| !f.as_os_str().is_empty()).collect();
    let package = folders.iter().rev().find(|f| is(f, "mlpackage") || is(f, "mlmodelc"));
    if let Some(package) = package {
        return Some(package.to_path_buf());
    }
    // A package under another name.
    let marks = ["Manifest.json", "coremldata.bin", "model.mil"];
    let marked = |f: &&&Path| marks.iter().any(|mark| all.iter().any(|other| *other == f.join(mark)));
    if let Some(folder) = folders.iter().rev().find(marked) {
        return Some(folder.to_path_buf());
    }
    is(file, "mlmodel").then(|| file.to_owned())
}

/// Models among the files.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Found {
    memory: MemoryFolder,
    models: Vec<PathBuf>,
    /// Folder of a language model.
    language: Option<PathBuf>,
    size: usize,
}

#[wasm_bindgen]
impl Found {
    /// What is there, as JSON: `models` with their paths, the folder of a language model as `language` or null, all bytes
    /// as `size`.
    pub fn list(&self) -> String {
        json!({ "models": self.models, "language": self.language, "size": self.size }).to_string()
    }

    /// The description of a model, as JSON.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn describe(&self, model: &str) -> Result<String, JsError> {
        Ok(self.described(model)?.to_string())
    }

    /// The graph of a model as SVG; of one function, if named.
    ///
    /// # Errors
    /// If it can't be opened, is no program, or has no such function.
    pub fn svg(&self, model: &str, function: Option<String>, unfold: bool) -> Result<String, JsError> {
        Ok(self.drawn(model, function, unfold)?)
    }

    /// The estimate of what the Neural Engine runs, as JSON.
    ///
    /// # Errors
    /// If it can't be opened or is no program.
    pub fn ane(&self, model: &str) -> Result<String, JsError> {
        Ok(self.estimated(model)?.to_string())
    }

    /// Loads a function of a model, the default one if not named.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn predictor(&self, model: &str, function: Option<String>) -> Result<Predictor, JsError> {
        Ok(Predictor::load(&self.path(model), function.as_deref())?)
    }

    /// Loads the language model.
    ///
    /// # Errors
    /// If there is none, or it can't be run.
    pub fn chat(&self) -> Result<Chat, JsError> {
        Ok(self.language()?)
    }
}

impl Found {
    /// Path of a model for the library.
    pub fn path(&self, model: &str) -> PathBuf {
        self.memory.root().join(model)
    }

    pub(crate) fn model(&self, path: &str) -> Result<Model, Failure> {
        Ok(Model::open(&self.path(path))?)
    }

    /// [`chat`](Self::chat).
    ///
    /// # Errors
    /// If there is none, or it can't be run.
    pub fn language(&self) -> Result<Chat, Failure> {
        let folder =
            self.language.as_ref().ok_or_else(|| Failure::new("there is no language model among the files"))?;
        Chat::load(&self.memory.root().join(folder))
    }
}
