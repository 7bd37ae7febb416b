//! SmolLM 3: every fourth layer without positions.

use candle_nn::Activation;
use candle_transformers::models::smol::smollm3;

use super::{AttentionBias, Config, Family, USUAL, setting};

pub(super) const FAMILY: Family = Family {
    model_type: "smollm3",
    rope_theta: 2_000_000.0,
    attention_bias: AttentionBias::AllIfConfigured,
    mlp_bias: true,
    tied: true,
    check: |config| rotated(config).map(|_| ()),
    build: |config, weights, _, _, context| {
        let rotated = rotated(config).map_err(crate::error::Error::Request)?;
        Ok(Box::new(smollm3::ModelForCausalLM::new(&as_smollm3(config, rotated, context), weights)?))
    },
    ..USUAL
};

network!(smollm3::ModelForCausalLM);

/// For each layer 1 if it has rotary positions, else 0: `no_rope_layers`, else every layer but each fourth.
fn rotated(c: &Config) -> Result<Vec<usize>, String> {
    let layers = c.num_hidden_layers;
    if let Some(given) = setting::<Vec<usize>>(c, "no_rope_layers")? {
        let fits = given.len() == layers && given.iter().all(|&v| v <= 1);
        return if fits { Ok(given) } else { Err(format!("no_rope_layers: expected {layers} times 0 or 1")) };
    }
    let interval = setting::<usize>(c, "no_rope_layer_interval")?.unwrap_or(4);
    if interval == 0 {
        return Err("no_rope_layer_interval is 0: expected at least 1".to_owned());
    }
    Ok((0..layers).map(|i| usize::from(!(i + 1).is_multiple_of(interval))).collect())
}

fn as_smollm3(c: &Config, rotated: Vec<usize>, context: usize) -> smollm3::Config {
    smollm3::Config {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads,
        max_position_embeddings: context,
        tie_word_embeddings: c.tie_word_embeddings,
        rope_theta: c.rope.theta,
        rms_norm_eps: c.rms_norm_eps,
        hidden_act: Activation::Silu,
        attention_bias: Some(c.attention_bias),
        attention_dropout: None,
        mlp_bias: Some(c.mlp_bias),
        sliding_window: None,
        use_sliding_window: None,
        rope_scaling: None,
        bos_token_id: None,
        eos_token_id: None,
        pad_token_id: None,
        max_window_layers: None,
        no_rope_layers: Some(rotated),
        no_rope_layer_interval: None,
    }
}
