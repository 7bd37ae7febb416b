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
    pub(in crate::backend) mlp_bias: bool,
    pub(in crate::backend) rope: Rope,
    /// The whole file, without keys that are null.
    pub(in crate::backend) more: serde_json::Map<String, serde_json::Value>,
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
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
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
    let head_dim = raw.head_dim.or(family.head_dim).unwrap_or(raw.hidden_size / heads);
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
    let mut more: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    more.retain(|_, value| !value.is_null());
    let mut config = Config {
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
        tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(family.tied),
        attention_bias: match family.attention_bias {
            AttentionBias::InputsAlways => true,
            AttentionBias::AllIfConfigured => raw.attention_bias.unwrap_or(false),
            AttentionBias::Never => false,
        },
        mlp_bias: raw.mlp_bias,
        rope,
        more,
    };
    (family.check)(&mut config)?;
    Ok(config)
}

/// Rejects features that the networks would silently ignore.
fn supported(raw: &Raw, family: &Family) -> Result<(), String> {
    if raw.quantization_config.is_some() {
        return Err("quantization_config: quantized checkpoints are not supported".to_owned());
    }
    if raw.use_sliding_window {
        return Err("use_sliding_window: attention in a sliding window is not supported".to_owned());
    }
    let attention = family.attention_bias == AttentionBias::Never && raw.attention_bias == Some(true);
    if (raw.mlp_bias && !family.mlp_bias) || attention {
        let family = family.model_type;
        return Err(format!("attention_bias or mlp_bias: biases are not supported for model_type `{family}`"));
    }
    // The newer name wins, as in transformers.
    match raw.hidden_activation.as_deref().or(raw.hidden_act.as_deref()) {
        Some(other) if !family.activations.contains(&other) => {
            Err(format!("hidden_act `{other}`: expected {}", family.activations[0]))
        }
        _ => Ok(()),
    }
}

/// `rope_parameters` (transformers 5), else `rope_theta` and `rope_scaling` (transformers 4).
fn rope(raw: &Raw, family: &Family) -> Result<Rope, String> {
    let parameters = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    // Families with two kinds of layers name them.
    let parameters = parameters.map(|p| p.get("full_attention").unwrap_or(p));
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
    }

    /// What transformers does and the networks of candle-transformers don't.
    #[test]
    fn families_refuse_what_their_networks_ignore() {
        use serde_json::json;
        let longrope = json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]});
        let kinds = |kinds: [&str; 2]| json!(kinds.map(|k| format!("{k}_attention")));
        for (family, name, value, part) in [
            ("gemma2", "tie_word_embeddings", json!(false), "tie_word_embeddings"),
            ("gemma2", "query_pre_attn_scalar", json!(0), "query_pre_attn_scalar"),
            ("gemma2", "attn_logit_softcapping", json!(-1.0), "attn_logit_softcapping"),
            ("gemma2", "hidden_act", json!("relu"), "gelu_pytorch_tanh"),
            ("gemma2", "sliding_window", json!(0), "sliding_window"),
            ("gemma2", "sliding_window", json!("wide"), "sliding_window"),
            ("gemma3_text", "layer_types", kinds(["full", "sliding"]), "layer_types"),
            ("gemma3_text", "layer_types", kinds(["sliding", "chunked"]), "layer_types"),
            ("gemma3_text", "layer_types", json!(["full_attention"]), "layer_types"),
            ("gemma3_text", "sliding_window_pattern", json!(0), "sliding_window_pattern"),
            ("gemma3_text", "rope_scaling", json!({"rope_type": "linear", "factor": 8.0}), "linear"),
            (
                "gemma3_text",
                "rope_parameters",
                json!({"full_attention": {"rope_type": "linear", "factor": 8.0}}),
                "linear",
            ),
            ("gemma3_text", "rope_parameters", json!({"sliding_attention": {"rope_type": "linear"}}), "linear"),
            ("gemma3_text", "rope_local_base_freq", json!(0), "rope_local_base_freq"),
            ("gemma3_text", "use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
            ("phi3", "rope_scaling", longrope, "longrope"),
            ("phi3", "partial_rotary_factor", json!(0.1), "partial_rotary_factor"),
            ("phi3", "partial_rotary_factor", json!(2), "partial_rotary_factor"),
            ("smollm3", "no_rope_layers", json!([1]), "no_rope_layers"),
            ("smollm3", "no_rope_layer_interval", json!(0), "no_rope_layer_interval"),
            ("qwen3_moe", "mlp_only_layers", json!([0]), "mlp_only_layers"),
            ("qwen3_moe", "num_experts_per_tok", json!(9999), "num_experts_per_tok"),
            ("qwen3_moe", "num_experts", json!(1 << 20), "experts"),
            ("qwen3_moe", "decoder_sparse_step", json!(0), "decoder_sparse_step"),
            ("granite", "logits_scaling", json!(0), "logits_scaling"),
            ("granite", "attention_bias", json!(true), "attention_bias"),
            ("mistral", "rope_parameters", json!({"rope_type": "yarn"}), "yarn"),
            ("olmo2", "mlp_bias", json!(true), "mlp_bias"),
        ] {
            let gemma = family.starts_with("gemma");
            let act = if gemma { "gelu_pytorch_tanh" } else { "silu" };
            let usual = [("model_type", family.into()), ("head_dim", 16.into()), ("hidden_act", act.into())];
            if let Err(e) = with(&usual) {
                panic!("{family}: {e}");
            }
            let message = with(&[&usual[..], &[(name, value)]].concat()).expect_err(name);
            assert!(message.contains(part), "{family}: {name}: {message}");
        }
    }

    #[test]
    fn positions_end_with_a_window_that_the_network_lacks() {
        for (family, positions) in [("mistral", 20), ("phi3", 20), ("gemma2", 20), ("gemma3_text", 128), ("olmo2", 128)]
        {
            let act = if family.starts_with("gemma") { "gelu_pytorch_tanh" } else { "silu" };
            let config = with(&[
                ("model_type", family.into()),
                ("head_dim", 16.into()),
                ("hidden_act", act.into()),
                ("sliding_window", 20.into()),
            ]);
            assert_eq!(config.expect(family).max_position_embeddings, positions, "{family}");
        }
    }

    #[test]
    fn files_that_are_not_json_are_refused() {
        assert!(parse("{").is_err() && parse("").is_err());
    }
}
