//! Phi 3 and 4 without RoPE scaling, up to their sliding window.

use candle_nn::Activation;
use candle_transformers::models::phi3;

use super::{Config, Family, USUAL, factor, weights, within_window};

/// candle-transformers ignores the window, so the context ends with it. It computes the rotary angles in the model's
/// dtype. Its `longrope` lacks the factor of attention and mixes both lists of factors, so scaling is refused.
pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    needs_f32: true,
    layer: |c, _| {
        let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let own = [
            ("self_attn.qkv_proj.weight", [q + 2 * kv, c.hidden_size]),
            ("self_attn.o_proj.weight", [c.hidden_size, q]),
            ("mlp.gate_up_proj.weight", [2 * c.intermediate_size, c.hidden_size]),
            ("mlp.down_proj.weight", [c.hidden_size, c.intermediate_size]),
        ];
        let own: weights::Tensors = own.map(|(name, shape)| (name.to_owned(), shape.to_vec())).into();
        [own, weights::norms(&["input_layernorm", "post_attention_layernorm"], c.hidden_size)].concat()
    },
    check: |config| {
        rotary_factor(config)?;
        within_window(config)
    },
    build: |config, weights, _, _, context| Ok(Box::new(phi3::Model::new(&as_phi3(config, context)?, weights)?)),
    ..USUAL
};

network!(phi3::Model);

/// The part of each head that is rotated: in `rope_parameters` (transformers 5) or beside it.
fn rotary_factor(c: &Config) -> Result<f64, String> {
    let inner = c.more.get("rope_parameters").and_then(|p| p.get("partial_rotary_factor"));
    let value = match inner.and_then(serde_json::Value::as_f64) {
        Some(value) => value,
        None => factor(c, "partial_rotary_factor", 1.0)?,
    };
    let rotated = (value * c.head_dim as f64) as usize;
    if value > 0.0 && value <= 1.0 && rotated > 0 && rotated.is_multiple_of(2) {
        Ok(value)
    } else {
        Err(format!("partial_rotary_factor is {value}: expected an even part of head_dim {}", c.head_dim))
    }
}

fn as_phi3(c: &Config, context: usize) -> crate::error::Result<phi3::Config> {
    let rotated = rotary_factor(c).map_err(crate::error::Error::Request)?;
    Ok(phi3::Config {
        vocab_size: c.vocab_size,
        hidden_act: Activation::Silu,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads,
        rms_norm_eps: c.rms_norm_eps,
        rope_theta: c.rope.theta,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: context,
        original_max_position_embeddings: None,
        partial_rotary_factor: (rotated < 1.0).then_some(rotated),
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
