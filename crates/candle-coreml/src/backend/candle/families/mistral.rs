//! Mistral and Ministral, up to their sliding window.

use candle_nn::Activation;
use candle_transformers::models::mistral;

use super::{Config, Family, USUAL, weights, within_window};

/// candle-transformers' mask leaves cached tokens in the window, so the context ends with the window.
pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    free_head_dim: true,
    check: within_window,
    build: |config, weights, _, _, context| {
        let weights = weights::with_head(config, weights);
        Ok(Box::new(mistral::Model::new(&as_mistral(config, context), weights)?))
    },
    ..USUAL
};

network!(mistral::Model);

fn as_mistral(c: &Config, context: usize) -> mistral::Config {
    mistral::Config {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        head_dim: Some(c.head_dim),
        num_key_value_heads: c.num_key_value_heads,
        hidden_act: Activation::Silu,
        max_position_embeddings: context,
        rms_norm_eps: c.rms_norm_eps,
        rope_theta: c.rope.theta,
        sliding_window: None,
        use_flash_attn: false,
    }
}
