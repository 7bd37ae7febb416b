//! `modules.json` of sentence-transformers: what makes one vector of the states of a text.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::read_json;
use crate::error::{ConvertError, Result};

/// How states become one vector (sentence-transformers, `Pooling.forward`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    First,
    Max,
    Mean,
    /// The sum over the root of the number of tokens.
    RootMean,
}

/// A product behind the pooling.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    pub(crate) folder: PathBuf,
    pub(crate) inputs: usize,
    pub(crate) out: usize,
    pub(crate) bias: bool,
    pub(crate) tanh: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Modules {
    pub(crate) pooling: Pooling,
    pub(crate) dense: Vec<Dense>,
    pub(crate) normalize: bool,
    /// Most tokens of a text.
    pub(crate) length: Option<usize>,
}

const MODES: [(&str, Pooling); 4] = [
    ("pooling_mode_cls_token", Pooling::First),
    ("pooling_mode_max_tokens", Pooling::Max),
    ("pooling_mode_mean_tokens", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", Pooling::RootMean),
];

impl Modules {
    /// Reads the modules of a folder; `None` if it has none.
    pub(crate) fn open(folder: &Path, width: usize) -> Result<Option<Self>> {
        let path = folder.join("modules.json");
        if !path.is_file() {
            return Ok(None);
        }
        let wrong = |place: &str, expected: &str, found: String| ConvertError::invalid(&path, place, expected, found);
        let value = read_json(&path)?;
        let list = value.as_array().ok_or_else(|| wrong("the file", "a list", value.to_string()))?;
        let (mut pooling, mut dense, mut normalize) = (None, Vec::new(), false);
        let mut wide = width;
        for (i, module) in list.iter().enumerate() {
            let ty = module["type"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default();
            let relative = module["path"].as_str().unwrap_or_default();
            let inside = Path::new(relative).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !inside {
                return Err(wrong("`path`", "a folder inside", relative.to_owned()));
            }
            let own = folder.join(relative);
            let place = format!("module {i}");
            match ty {
                "Transformer" if i == 0 && relative.is_empty() => {}
                "Pooling" if i == 1 => pooling = Some(self::pooling(&own, width)?),
                "Dense" if i >= 2 && !normalize => {
                    let next = self::dense(&own, wide)?;
                    wide = next.out;
                    dense.push(next);
                }
                "Normalize" if i >= 2 && !normalize => normalize = true,
                _ => {
                    let expected = "Transformer in the folder itself, Pooling, then Dense and Normalize";
                    return Err(wrong(&place, expected, format!("{ty} in `{relative}`")));
                }
            }
        }
        let pooling = pooling.ok_or_else(|| wrong("the modules", "Pooling among them", "none".to_owned()))?;
        let limits = folder.join("sentence_bert_config.json");
        let limits = if limits.is_file() { read_json(&limits)? } else { Value::Null };
        let length = limits["max_seq_length"].as_u64().and_then(|n| usize::try_from(n).ok());
        Ok(Some(Self { pooling, dense, normalize, length }))
    }
}

fn pooling(folder: &Path, width: usize) -> Result<Pooling> {
    let path = folder.join("config.json");
    let value = read_json(&path)?;
    let entries = value.as_object().into_iter().flatten();
    let on: Vec<&str> = entries
        .filter(|(k, v)| k.starts_with("pooling_mode_") && **v == Value::Bool(true))
        .map(|(k, _)| k.as_str())
        .collect();
    let found = MODES.iter().find(|(name, _)| on.as_slice() == [*name]);
    let mode = found.ok_or_else(|| {
        let known: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
        ConvertError::invalid(&path, "the pooling", format!("one of {}", known.join(", ")), on.join(", "))
    })?;
    if value["word_embedding_dimension"].as_u64().is_some_and(|n| n != width as u64) {
        let found = value["word_embedding_dimension"].to_string();
        return Err(ConvertError::invalid(&path, "`word_embedding_dimension`", width.to_string(), found));
    }
    Ok(mode.1)
}

fn dense(folder: &Path, width: usize) -> Result<Dense> {
    let path = folder.join("config.json");
    let value = read_json(&path)?;
    let size = |key: &str| {
        let n = value[key].as_u64().filter(|n| (1..1 << 24).contains(n));
        n.map(|n| n as usize).ok_or_else(|| {
            ConvertError::invalid(&path, format!("`{key}`"), "a positive number", value[key].to_string())
        })
    };
    let (inputs, out) = (size("in_features")?, size("out_features")?);
    if inputs != width {
        return Err(ConvertError::invalid(&path, "`in_features`", width.to_string(), inputs.to_string()));
    }
    let act = value["activation_function"].as_str().unwrap_or_default();
    let tanh = match act.rsplit('.').next().unwrap_or_default() {
        "Tanh" => true,
        "Identity" => false,
        _ => return Err(ConvertError::invalid(&path, "`activation_function`", "Tanh or Identity", act)),
    };
    Ok(Dense { folder: folder.to_owned(), inputs, out, bias: value["bias"].as_bool().unwrap_or(true), tanh })
}
