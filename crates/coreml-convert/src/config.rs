//! `config.json` of a decoder: dimensions and what the families differ in.

use std::path::Path;

use serde_json::Value;

use crate::error::{ConvertError, Result};
use crate::net::Matrix;

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `qwen2`: biases of queries, keys and values.
    Qwen2,
    /// `qwen3`: norms of queries and keys.
    Qwen3,
    /// `llama`.
    Llama,
    /// `mistral`.
    Mistral,
    /// `gemma3_text`, and the text part of `gemma3`: norms around each part, local layers.
    Gemma3,
}

impl Family {
    /// Families that ANEMLL's Llama stands for: rotations by halves, a softmax in parts, a linear layer after attention.
    pub(crate) fn is_llama(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral)
    }
}

/// A row of [`FAMILIES`].
pub(crate) struct FamilyRow {
    pub(crate) model_type: &'static str,
    pub(crate) family: Family,
    /// Prefix of ANEMLL's files.
    pub(crate) prefix: &'static str,
    /// Parts of the logits.
    pub(crate) parts: usize,
}

pub(crate) const FAMILIES: &[FamilyRow] = &[
    FamilyRow { model_type: "qwen2", family: Family::Qwen2, prefix: "qwen25", parts: 16 },
    FamilyRow { model_type: "qwen3", family: Family::Qwen3, prefix: "qwen", parts: 16 },
    FamilyRow { model_type: "llama", family: Family::Llama, prefix: "llama", parts: 8 },
    FamilyRow { model_type: "mistral", family: Family::Mistral, prefix: "llama", parts: 8 },
    FamilyRow { model_type: "gemma3_text", family: Family::Gemma3, prefix: "gemma3", parts: 16 },
    FamilyRow { model_type: "gemma3", family: Family::Gemma3, prefix: "gemma3", parts: 16 },
];

/// Rotary frequencies of the pairs of a head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope(pub(crate) Vec<f64>);

/// Dimensions and variants of a decoder.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) model_type: String,
    pub(crate) family: Family,
    pub(crate) prefix: &'static str,
    pub(crate) parts: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv: usize,
    pub(crate) head: usize,
    pub(crate) vocab: usize,
    pub(crate) eps: f64,
    pub(crate) scale: f64,
    pub(crate) tied: bool,
    pub(crate) rope: Rope,
    /// Of local layers.
    pub(crate) local_rope: Rope,
    /// Window of local layers, and which layers are local.
    pub(crate) window: Option<usize>,
    pub(crate) local: Vec<bool>,
}

/// Most layers, heads and so on that are taken for real.
const MOST: usize = 1 << 24;

/// Keys of a configuration.
pub(crate) struct Reader<'a> {
    pub(crate) path: &'a Path,
    pub(crate) raw: &'a Value,
}

/// Reads a JSON file of at most 4 MiB.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = coreml_format::file::read(path, 1 << 22)
        .map_err(|e| ConvertError::Io { path: e.path, source: e.cause.into() })?;
    serde_json::from_slice(&bytes).map_err(|e| ConvertError::invalid(path, "the file", "JSON", e.to_string()))
}

/// `config.json` of a folder, and its path.
pub(crate) fn json(folder: &Path) -> Result<(std::path::PathBuf, Value)> {
    let path = folder.join("config.json");
    let value = read_json(&path)?;
    Ok((path, value))
}

impl Reader<'_> {
    fn wrong(&self, key: &str, expected: &str, found: &Value) -> ConvertError {
        ConvertError::invalid(self.path, format!("`{key}`"), expected, found.to_string())
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.maybe(key)?.ok_or_else(|| self.wrong(key, "a positive number", &self.raw[key]))
    }

    pub(crate) fn maybe(&self, key: &str) -> Result<Option<usize>> {
        match &self.raw[key] {
            Value::Null => Ok(None),
            v => match v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=MOST).contains(n)) {
                Some(n) => Ok(Some(n)),
                None => Err(self.wrong(key, "a positive number", v)),
            },
        }
    }

    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64> {
        match &self.raw[key] {
            Value::Null => Ok(default),
            v => v.as_f64().filter(|n| n.is_finite()).ok_or_else(|| self.wrong(key, "a number", v)),
        }
    }

    /// Refuses a setting that is not implemented.
    pub(crate) fn only(&self, key: &str, allowed: &[Value]) -> Result<()> {
        let found = &self.raw[key];
        if found.is_null() || allowed.contains(found) {
            return Ok(());
        }
        let words: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        Err(self.wrong(key, &words.join(" or "), found))
    }

    /// Frequencies of plain, linear and Llama 3's rotary embeddings (transformers, `modeling_rope_utils.py`).
    fn rope(&self, scaling: &Value, theta: f64, head: usize) -> Result<Rope> {
        let plain: Vec<f64> = (0..head / 2).map(|i| theta.powf(-(2.0 * i as f64) / head as f64)).collect();
        let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str()).unwrap_or("default");
        let get = |key: &str| {
            scaling[key]
                .as_f64()
                .filter(|v| *v > 0.0)
                .ok_or_else(|| self.wrong(&format!("rope_scaling.{key}"), "a positive number", &scaling[key]))
        };
        match kind {
            "default" => Ok(Rope(plain)),
            "linear" => {
                let factor = get("factor")?;
                Ok(Rope(plain.into_iter().map(|f| f / factor).collect()))
            }
            "llama3" => {
                let (factor, low, high) = (get("factor")?, get("low_freq_factor")?, get("high_freq_factor")?);
                let old = get("original_max_position_embeddings")?;
                let turn = |f: f64| {
                    let wave = std::f64::consts::TAU / f;
                    if wave < old / high {
                        f
                    } else if wave > old / low {
                        f / factor
                    } else {
                        let smooth = (old / wave - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                Ok(Rope(plain.into_iter().map(turn).collect()))
            }
            _ => Err(self.wrong("rope_scaling", "default, linear or llama3", scaling)),
        }
    }
}

impl Config {
    /// Reads `config.json` of a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let (path, value) = json(folder)?;
        Self::read(&path, &value)
    }

    fn read(path: &Path, whole: &Value) -> Result<Self> {
        let kind = whole["model_type"].as_str().unwrap_or_default();
        let row = FAMILIES.iter().find(|row| row.model_type == kind).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|row| row.model_type).collect();
            ConvertError::invalid(
                path,
                "`model_type`",
                format!("one of {}", known.join(", ")),
                whole["model_type"].to_string(),
            )
        })?;
        let text = if whole["text_config"].is_object() { &whole["text_config"] } else { whole };
        let r = Reader { path, raw: text };
        let family = row.family;
        let gemma = family == Family::Gemma3;
        let (hidden, heads, layers) =
            (r.size("hidden_size")?, r.size("num_attention_heads")?, r.size("num_hidden_layers")?);
        let head = r.maybe("head_dim")?.unwrap_or(if gemma { 256 } else { hidden / heads });
        let kv = r.maybe("num_key_value_heads")?.unwrap_or(heads);
        if head % 2 != 0 || heads % kv != 0 {
            return Err(ConvertError::invalid(
                path,
                "heads",
                "an even size, and a divisor of heads for keys",
                format!("{head}, {kv} of {heads}"),
            ));
        }
        for key in ["attention_bias", "mlp_bias", "use_bidirectional_attention"] {
            r.only(key, &[Value::Bool(false)])?;
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            r.only(key, &[])?;
        }
        let act = ["hidden_act", "hidden_activation"];
        let wanted = if gemma { "gelu_pytorch_tanh" } else { "silu" };
        act.iter().try_for_each(|key| r.only(key, &[Value::from(wanted)]))?;
        let theta = r.number("rope_theta", if gemma { 1e6 } else { 1e4 })?;
        let old = if text["rope_scaling"].is_object() { &text["rope_scaling"] } else { &Value::Null };
        // transformers 5 keeps everything in `rope_parameters`, by kind of layer where there are several.
        let new = &text["rope_parameters"];
        let of = |name: &str, theta: f64, scaling: &Value| {
            let own = if new[name].is_object() { &new[name] } else { new };
            if own.is_object() && (own["rope_theta"].is_number() || own["rope_type"].is_string()) {
                r.rope(own, own["rope_theta"].as_f64().unwrap_or(theta), head)
            } else {
                r.rope(scaling, theta, head)
            }
        };
        let rope = of("full_attention", theta, old)?;
        let local_theta = r.number("rope_local_base_freq", 1e4)?;
        let local_rope = if new["full_attention"].is_object() {
            of("sliding_attention", local_theta, &Value::Null)?
        } else {
            r.rope(&Value::Null, local_theta, head)?
        };
        let (window, local) = windows(&r, family, layers)?;
        let query = r.number("query_pre_attn_scalar", if gemma { 256.0 } else { head as f64 })?;
        let tied =
            text["tie_word_embeddings"].as_bool().or_else(|| whole["tie_word_embeddings"].as_bool()).unwrap_or(gemma);
        Ok(Self {
            model_type: kind.to_owned(),
            family,
            prefix: row.prefix,
            parts: row.parts,
            hidden,
            intermediate: r.size("intermediate_size")?,
            layers,
            heads,
            kv,
            head,
            vocab: r.size("vocab_size")?,
            eps: r.number("rms_norm_eps", 1e-6)?,
            scale: query.powf(-0.5),
            tied,
            rope,
            local_rope,
            window,
            local,
        })
    }

    /// Whether coremltools' passes leave one reshape of two that follow one another, in chunks with these weights.
    pub(crate) fn joins_reshapes(&self, weight: &Matrix) -> bool {
        self.family != Family::Qwen3 || matches!(weight, Matrix::Table { .. })
    }

    /// Number of local layers.
    pub(crate) fn locals(&self) -> usize {
        self.local.iter().filter(|l| **l).count()
    }
}

/// Window of the local layers, and which layers are local.
fn windows(r: &Reader<'_>, family: Family, layers: usize) -> Result<(Option<usize>, Vec<bool>)> {
    let none = Ok((None, vec![false; layers]));
    let window = r.maybe("sliding_window")?;
    match family {
        Family::Gemma3 => {
            let window = window.ok_or_else(|| r.wrong("sliding_window", "a positive number", &Value::Null))?;
            let local = match &r.raw["layer_types"] {
                Value::Array(all) if all.len() == layers => {
                    let one = |v: &Value| match v.as_str() {
                        Some("sliding_attention") => Ok(true),
                        Some("full_attention") => Ok(false),
                        _ => Err(r.wrong("layer_types", "sliding_attention or full_attention", v)),
                    };
                    all.iter().map(one).collect::<Result<_>>()?
                }
                Value::Null => {
                    let every = r.maybe("sliding_window_pattern")?.or(r.maybe("_sliding_window_pattern")?).unwrap_or(6);
                    (0..layers).map(|i| (i + 1) % every != 0).collect()
                }
                other => return Err(r.wrong("layer_types", "one for each layer", other)),
            };
            Ok((Some(window), local))
        }
        Family::Mistral => Ok((window, vec![false; layers])),
        _ => {
            r.only("use_sliding_window", &[Value::Bool(false)])?;
            none
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        Config::read(Path::new("config.json"), &serde_json::from_str(text).expect("JSON"))
    }

    const LLAMA: &str = r#"{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "rope_theta": 500000.0, "rms_norm_eps": 1e-5"#;

    #[test]
    fn configurations_are_read() {
        let c = read(&format!("{LLAMA}}}")).expect("a configuration");
        assert_eq!((c.head, c.kv, c.parts, c.tied, c.window), (16, 2, 8, false, None));
        assert!((c.scale - 0.25).abs() < 1e-12 && (c.rope.0[1] - 500_000f64.powf(-0.125)).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (more, part) in [
            (r#", "attention_bias": true"#, "`attention_bias`: expected false, found true"),
            (r#", "hidden_act": "relu""#, "`hidden_act`"),
            (r#", "rope_scaling": {"rope_type": "yarn"}"#, "yarn"),
            (r#", "rope_scaling": {"rope_type": "linear"}"#, "rope_scaling.factor"),
            (r#", "head_dim": 7"#, "an even size"),
            (r#", "final_logit_softcapping": 30.0"#, "`final_logit_softcapping`"),
        ] {
            let error = read(&format!("{LLAMA}{more}}}")).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = read(r#"{"model_type": "rwkv"}"#).expect_err("unknown").to_string();
        assert!(error.contains("qwen2, qwen3, llama, mistral, gemma3_text"), "{error}");
        let error = read(&format!("{}}}", LLAMA.replace(": 64,", ": 0,"))).expect_err("no size").to_string();
        assert!(error.contains("`hidden_size`: expected a positive number, found 0"), "{error}");
    }
}
