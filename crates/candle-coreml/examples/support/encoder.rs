//! A text encoder in a folder: one `*.mlpackage`, `tokenizer.json` and, for classifiers, `config.json` with labels.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candle_coreml::{Config, CoreMLModel, Error, Result};
use indexmap::IndexMap;
use tokenizers::Tokenizer;

/// The shipped encoder: eight intents of a toy assistant.
pub(crate) const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-intent");

/// A model with the inputs `input_ids` and `attention_mask`, its tokenizer and its labels.
pub(crate) struct Encoder {
    pub(crate) model: CoreMLModel,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) labels: Vec<String>,
}

impl Encoder {
    /// Loads the package, the tokenizer and the labels of a folder.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let input_names = vec!["input_ids".to_owned(), "attention_mask".to_owned()];
        let config = Config { input_names, model_type: "bert".to_owned(), ..Config::default() };
        let path = folder.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_file(&path).map_err(|e| bad(&path, e))?;
        // Some models pad every text to a fixed length; `batch` pads to its longest text instead.
        tokenizer.with_padding(None);
        Ok(Self {
            model: CoreMLModel::builder(package(folder)?).config(config).load()?,
            tokenizer,
            labels: labels(&folder.join("config.json"))?,
        })
    }

    /// Token ids and mask, both `[texts, longest]` I64: shorter texts are padded with id 0 and masked out.
    pub(crate) fn batch(&self, texts: &[&str]) -> Result<(Tensor, Tensor)> {
        let encoded = self.tokenizer.encode_batch(texts.to_vec(), true);
        let encoded = encoded.map_err(|e| Error::Request(format!("the tokenizer failed: {e}")))?;
        let longest = encoded.iter().map(|e| e.get_ids().len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in encoded.iter().map(|e| e.get_ids()) {
            ids.extend(row.iter().map(|&id| i64::from(id)).chain(std::iter::repeat_n(0, longest - row.len())));
            mask.extend((0..longest).map(|i| i64::from(i < row.len())));
        }
        let shape = (texts.len(), longest);
        Ok((Tensor::from_vec(ids, shape, &Device::Cpu)?, Tensor::from_vec(mask, shape, &Device::Cpu)?))
    }

    /// All outputs by name; for the shipped model `logits` `[texts, labels]` and `hidden_states` `[texts, tokens,
    /// hidden]`, both F32.
    pub(crate) fn forward(&self, ids: &Tensor, mask: &Tensor) -> Result<IndexMap<String, Tensor>> {
        self.model.forward_all(&[ids, mask])
    }

    /// The output with this name, or an error listing the available ones.
    pub(crate) fn output(&self, name: &str, texts: &[&str]) -> Result<Tensor> {
        let (ids, mask) = self.batch(texts)?;
        let mut outputs = self.forward(&ids, &mask)?;
        outputs.swap_remove(name).ok_or_else(|| Error::NotFound {
            what: "output",
            name: name.to_owned(),
            path: self.model.path().to_owned(),
            available: self.model.output_names().join(", "),
        })
    }
}

fn bad(path: &Path, message: impl ToString) -> Error {
    Error::File { path: path.to_owned(), message: message.to_string() }
}

/// The first package in a folder, by name.
fn package(folder: &Path) -> Result<PathBuf> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "mlpackage" || e == "mlmodelc") {
            found.push(path);
        }
    }
    found.sort();
    found.into_iter().next().ok_or_else(|| bad(folder, "holds no .mlpackage and no .mlmodelc"))
}

/// `id2label` of a Hugging Face `config.json`; empty if the file is missing or has none.
fn labels(path: &Path) -> Result<Vec<String>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(path, e))?;
    let Some(named) = config.get("id2label").and_then(|l| l.as_object()) else { return Ok(Vec::new()) };
    (0..named.len())
        .map(|i| named.get(&i.to_string()).and_then(|l| l.as_str()).map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| bad(path, "`id2label` does not name the labels 0, 1, 2 …"))
}
