//! `config.json` of a checkpoint, as written by transformers (versions 4 and 5), validated for supported features.

use serde::Deserialize;

use super::families::{AttentionBias, Family};

/// Parameters of the rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::backend) struct Rope {
    pub(in crate::backend) theta: f64,
    pub(in crate::backend) llama3: Option<Llama3>,
}

/// RoPE scaling of Llama 3.1 and later.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(in crate::backend) struct Llama3 {
    pub(in crate::backend) factor: f32,
    pub(in crate::backend) low_freq_factor: f32,
    pub(in crate::backend) high_freq_factor: f32,
    pub(in crate::backend) original_max_position_embeddings: usize,
}

/// Parameters of a network, all within their ranges.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Config {
    pub(in crate::backend) family: &'static Family,
    pub(in crate::backend) vocab_size: usize,
    pub(in crate::backend) hidden_size: usize,
    pub(in crate::backend) intermediate_size: usize,
    pub(in crate::backend) num_hidden_layers: usize,
    pub(in crate::backend) num_attention_heads: usize,
    pub(in crate::backend) num_key_value_heads: usize,
    pub(in crate::backend) head_dim: usize,
    pub(in crate::backend) max_position_embeddings: usize,
    pub(in crate::backend) rms_norm_eps: f64,
    pub(in crate::backend) tie_word_embeddings: bool,
    pub(in crate::backend) attention_bias: bool,
    pub(in crate::backend) rope: Rope,
}

/// The file as stored.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    hidden_act: Option<String>,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    quantization_config: Option<serde_json::Value>,
}

/// Parses and validates a `config.json`; returns the problem otherwise.
pub(in crate::backend) fn parse(text: &str) -> Result<Config, String> {
    let raw: Raw = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let family = Family::find(&raw.model_type)?;
    supported(&raw, family)?;
    let rope = rope(&raw, family)?;
    let heads = raw.num_attention_heads;
    let key_value = raw.num_key_value_heads.unwrap_or(heads);
    for (name, value, most) in [
        ("vocab_size", raw.vocab_size, 1 << 24),
        ("hidden_size", raw.hidden_size, 1 << 20),
        ("intermediate_size", raw.intermediate_size, 1 << 22),
        ("num_hidden_layers", raw.num_hidden_layers, 1 << 12),
        ("num_attention_heads", heads, 1 << 12),
        ("num_key_value_heads", key_value, heads),
        ("max_position_embeddings", raw.max_position_embeddings, 1 << 28),
    ] {
        if value == 0 || value > most {
            return Err(format!("{name} is {value}: expected 1 to {most}"));
        }
    }
    if !heads.is_multiple_of(key_value) {
        return Err(format!("{heads} attention heads are not a multiple of {key_value} key and value heads"));
    }
    let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) || head_dim > 1 << 12 {
        return Err(format!("head_dim is {head_dim}: expected an even number up to 4096"));
    }
    // Families that compute the rotary embedding themselves.
    if !family.free_head_dim && head_dim * heads != raw.hidden_size {
        let hidden = raw.hidden_size;
        return Err(format!("head_dim {head_dim} in {heads} heads does not make hidden_size {hidden}"));
    }
    if !(raw.rms_norm_eps > 0.0 && raw.rms_norm_eps < 1.0) {
        return Err(format!("rms_norm_eps is {}: expected a number between 0 and 1", raw.rms_norm_eps));
    }
    Ok(Config {
        family,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: key_value,
        head_dim,
        max_position_embeddings: raw.max_position_embeddings,
        rms_norm_eps: raw.rms_norm_eps,
        tie_word_embeddings: raw.tie_word_embeddings,
        attention_bias: match family.attention_bias {
            AttentionBias::InputsAlways => true,
            AttentionBias::AllIfConfigured => raw.attention_bias.unwrap_or(false),
            AttentionBias::Never => false,
        },
        rope,
    })
}

/// Rejects features that the networks would silently ignore.
fn supported(raw: &Raw, family: &Family) -> Result<(), String> {
    if raw.quantization_config.is_some() {
        return Err("quantization_config: quantized checkpoints are not supported".to_owned());
    }
    if raw.use_sliding_window {
        return Err("use_sliding_window: attention in a sliding window is not supported".to_owned());
    }
    if raw.mlp_bias || (family.attention_bias == AttentionBias::Never && raw.attention_bias == Some(true)) {
        return Err("attention_bias or mlp_bias: a Llama with biases is not supported".to_owned());
    }
    match raw.hidden_act.as_deref() {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(format!("hidden_act `{other}`: expected silu")),
    }
}

/// `rope_parameters` (transformers 5), else `rope_theta` and `rope_scaling` (transformers 4).
fn rope(raw: &Raw, family: &Family) -> Result<Rope, String> {
    let parameters = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let of = |name: &str| parameters.and_then(|p| p.get(name));
    let theta = of("rope_theta").and_then(serde_json::Value::as_f64).or(raw.rope_theta).unwrap_or(family.rope_theta);
    if !(theta.is_finite() && theta > 1.0) {
        return Err(format!("rope_theta is {theta}: expected a number above 1"));
    }
    let kind = of("rope_type").or(of("type")).and_then(serde_json::Value::as_str).unwrap_or("default");
    let llama3 = match (kind, parameters) {
        ("llama3", Some(p)) if family.llama3_rope => {
            let scaling: Llama3 = serde_json::from_value(p.clone()).map_err(|e| format!("rope scaling: {e}"))?;
            let numbers = [scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor];
            let positive = numbers.iter().all(|n| n.is_finite() && *n > 0.0);
            if !positive || scaling.low_freq_factor >= scaling.high_freq_factor {
                return Err(format!("rope scaling {scaling:?}: expected positive factors, the low one below the high"));
            }
            Some(scaling)
        }
        ("default", _) => None,
        _ => return Err(format!("rope scaling `{kind}` is not supported for this model_type")),
    };
    Ok(Rope { theta, llama3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(changes: &[(&str, serde_json::Value)]) -> Result<Config, String> {
        let mut config = serde_json::json!({
            "model_type": "qwen3", "vocab_size": 272, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        });
        for (name, value) in changes {
            config[*name] = value.clone();
        }
        parse(&config.to_string())
    }

    #[test]
    fn both_ways_to_write_rope_are_read() {
        assert_eq!(with(&[]).expect("plain").rope.theta, 1e6);
        assert_eq!(with(&[("rope_theta", 5e5.into())]).expect("old").rope.theta, 5e5);
        let new = serde_json::json!({"rope_theta": 7e5, "rope_type": "default"});
        assert_eq!(with(&[("rope_parameters", new)]).expect("new").rope.theta, 7e5);
        let scaling = serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let llama = [("model_type", "llama".into()), ("head_dim", 16.into()), ("rope_scaling", scaling)];
        assert_eq!(with(&llama).expect("llama3").rope.llama3.expect("scaling").factor, 8.0);
    }

    #[test]
    fn what_is_out_of_range_or_not_supported_is_named() {
        let yarn = serde_json::json!({"rope_type": "yarn", "factor": 4.0});
        for (name, value, part) in [
            ("model_type", "mamba".into(), "mamba"),
            ("vocab_size", 0.into(), "vocab_size"),
            ("num_attention_heads", 0.into(), "num_attention_heads"),
            ("num_key_value_heads", 0.into(), "num_key_value_heads"),
            ("num_key_value_heads", 3.into(), "multiple"),
            ("num_hidden_layers", (1u64 << 40).into(), "num_hidden_layers"),
            ("head_dim", 7.into(), "head_dim"),
            ("head_dim", 0.into(), "head_dim"),
            ("hidden_act", "gelu".into(), "gelu"),
            ("rms_norm_eps", (-1.0).into(), "rms_norm_eps"),
            ("rope_theta", 0.into(), "rope_theta"),
            ("rope_scaling", yarn, "yarn"),
            ("use_sliding_window", true.into(), "sliding"),
            ("mlp_bias", true.into(), "mlp_bias"),
            ("quantization_config", serde_json::json!({"bits": 4}), "quantiz"),
            ("hidden_size", (-1).into(), "invalid value"),
        ] {
            let message = with(&[(name, value)]).expect_err(name);
            assert!(message.contains(part), "{name}: {message}");
        }
        assert!(with(&[("model_type", "llama".into())]).expect_err("head_dim").contains("hidden_size"));
        assert!(parse("{").is_err() && parse("").is_err());
    }
}
