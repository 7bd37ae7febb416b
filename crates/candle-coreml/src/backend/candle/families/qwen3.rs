//! Qwen 3, dense.

use candle_nn::Activation;
use candle_transformers::models::qwen3;

use super::weights::{self, Tensors};
use super::{AttentionBias, Config, Family, USUAL};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    rope_theta: 1_000_000.0,
    free_head_dim: true,
    attention_bias: AttentionBias::AllIfConfigured,
    layer: |config, _| layer(config, weights::gated(config, "mlp", config.intermediate_size)),
    build: |config, weights, _, _, context| {
        Ok(Box::new(qwen3::ModelForCausalLM::new(&as_qwen3(config, context), weights)?))
    },
    ..USUAL
};

/// Tensors of a layer around its feed-forward network: attention with norms of queries and keys.
pub(super) fn layer(c: &Config, feed_forward: Tensors) -> Tensors {
    let heads = weights::norms(&["self_attn.q_norm", "self_attn.k_norm"], c.head_dim);
    let before = weights::norms(&["input_layernorm", "post_attention_layernorm"], c.hidden_size);
    [weights::attention(c), heads, feed_forward, before].concat()
}

network!(qwen3::ModelForCausalLM);

fn as_qwen3(c: &Config, context: usize) -> qwen3::Config {
    qwen3::Config {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        head_dim: c.head_dim,
        attention_bias: c.attention_bias,
        num_key_value_heads: c.num_key_value_heads,
        max_position_embeddings: context,
        sliding_window: None,
        max_window_layers: c.num_hidden_layers,
        tie_word_embeddings: c.tie_word_embeddings,
        rope_theta: c.rope.theta,
        rms_norm_eps: c.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    }
}
