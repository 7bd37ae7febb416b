//! The files of a checkpoint: configuration, index, tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use coreml_format::file;
use safetensors::Dtype;

use super::config::{self, Config};
use super::families::{Network, Tensors};
use crate::error::{Error, Result};

/// Maximum size of `config.json` or an index in bytes.
const JSON_LIMIT: u64 = 64 << 20;

/// A checkpoint whose tensors match its configuration.
pub(super) struct Checkpoint {
    pub(super) config: Config,
    /// Files of tensors.
    pub(super) files: Vec<PathBuf>,
    /// Stored dtype of the embeddings.
    pub(super) stored: DType,
}

fn read(path: &Path) -> Result<String> {
    Ok(file::read_text(path, JSON_LIMIT)?)
}

fn bad(path: &Path, message: impl Into<String>) -> Error {
    Error::File { path: path.to_owned(), message: message.into() }
}

/// Maps files of tensors.
fn map(files: &[PathBuf]) -> Result<MmapedSafetensors> {
    // Candle opens them by name, and would block on a named pipe.
    for path in files {
        file::check(path)?;
    }
    // SAFETY: the files are mapped read-only; as for all mapped weight files, they must not be modified while the model
    // is loaded.
    let mapped = unsafe { MmapedSafetensors::multi(files) };
    mapped.map_err(|e| Error::Components {
        path: files.first().and_then(|f| f.parent()).map(Path::to_owned).unwrap_or_default(),
        message: format!("its safetensors files can't be opened: {e}"),
    })
}

impl Checkpoint {
    /// Opens the checkpoint in a folder and checks it.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        crate::folder::expect_checkpoint(folder)?;
        let path = folder.join("config.json");
        let config = config::parse(&read(&path)?).map_err(|message| bad(&path, message))?;
        let files = files(folder)?;
        let tensors = map(&files)?;
        let found: BTreeMap<String, (Dtype, Vec<usize>)> =
            tensors.tensors().into_iter().map(|(n, t)| (n, (t.dtype(), t.shape().to_vec()))).collect();
        check(folder, &config, &found)?;
        let stored = match found.get("model.embed_tokens.weight") {
            Some((Dtype::BF16, _)) => DType::BF16,
            Some((Dtype::F16, _)) => DType::F16,
            _ => DType::F32,
        };
        Ok(Self { config, files, stored })
    }

    /// Builds the network for positions up to `context`.
    pub(super) fn network(&self, device: &Device, dtype: DType, context: usize) -> Result<Box<dyn Network>> {
        // SAFETY: the files are mapped read-only; as for all mapped weight files, they must not be modified while the
        // model is loaded.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&self.files, dtype, device) }?;
        (self.config.family.build)(&self.config, weights, dtype, device, context)
    }
}

/// Files of tensors: those in the index, else `model.safetensors`, else the only one in the folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        return shards(folder, &index);
    }
    let one = folder.join("model.safetensors");
    if one.is_file() {
        return Ok(vec![one]);
    }
    let entries = std::fs::read_dir(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let all: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    if all.len() == 1 {
        return Ok(all);
    }
    Err(Error::Components {
        path: folder.to_owned(),
        message: format!("no model.safetensors, no index of shards, and {} other .safetensors files", all.len()),
    })
}

/// Files named by `weight_map` of an index, in the same folder.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_str(&read(index)?).map_err(|e| bad(index, e.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(bad(index, "names no files"));
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let plain =
            Path::new(&name).file_name().is_some_and(|n| n == name.as_str()) && !name.contains(['/', '\\', ':']);
        if !plain {
            return Err(bad(index, format!("`{name}` is not a file beside it")));
        }
        let path = folder.join(&name);
        if !path.is_file() {
            return Err(bad(index, format!("the shard `{name}` is missing")));
        }
        files.push(path);
    }
    Ok(files)
}

/// Names and shapes of the tensors that a configuration requires.
fn needed(c: &Config) -> Tensors {
    let hidden = c.hidden_size;
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![c.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !c.tie_word_embeddings {
        all.push(("lm_head.weight".to_owned(), vec![c.vocab_size, hidden]));
    }
    for layer in 0..c.num_hidden_layers {
        let own = (c.family.layer)(c, layer);
        all.extend(own.into_iter().map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
    }
    all
}

/// Checks that every tensor exists, with its shape and a supported dtype.
fn check(folder: &Path, config: &Config, found: &BTreeMap<String, (Dtype, Vec<usize>)>) -> Result<()> {
    let fail = |message: String| Err(Error::Components { path: folder.to_owned(), message });
    // The configuration bounds the number of layers only loosely; the files bound the list.
    let layers = (0..config.num_hidden_layers)
        .take_while(|i| found.contains_key(&format!("model.layers.{i}.post_attention_layernorm.weight")))
        .count();
    if layers < config.num_hidden_layers {
        return fail(format!("config.json says {} layers, the tensors have {layers}", config.num_hidden_layers));
    }
    let mut missing = Vec::new();
    for (name, shape) in needed(config) {
        match found.get(&name) {
            None => missing.push(name),
            Some((_, s)) if *s != shape => {
                return fail(format!("tensor `{name}` is {s:?}, but config.json makes it {shape:?}"));
            }
            Some((Dtype::F32 | Dtype::F16 | Dtype::BF16, _)) => {}
            Some((other, _)) => {
                return fail(format!("tensor `{name}` is stored as {other:?}; F32, F16 and BF16 are supported"));
            }
        }
    }
    match missing.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => fail(format!("the tensor `{first}` is missing, and {} others", rest.len())),
    }
}
