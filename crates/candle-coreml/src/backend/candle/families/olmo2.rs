//! OLMo 2: norms after attention and the gated network, and over all queries and keys.

use candle_nn::Activation;
use candle_transformers::models::olmo2;

use super::{AttentionBias, Config, Family, USUAL, weights};

/// candle-transformers computes the rotary angles in the model's dtype.
pub(super) const FAMILY: Family = Family {
    model_type: "olmo2",
    attention_bias: AttentionBias::AllIfConfigured,
    needs_f32: true,
    layer: |c, _| {
        [
            weights::attention(c),
            weights::gated(c, "mlp", c.intermediate_size),
            weights::norms(&["self_attn.q_norm"], c.num_attention_heads * c.head_dim),
            weights::norms(&["self_attn.k_norm"], c.num_key_value_heads * c.head_dim),
            weights::norms(&["post_attention_layernorm", "post_feedforward_layernorm"], c.hidden_size),
        ]
        .concat()
    },
    build: |config, weights, _, _, context| Ok(Box::new(olmo2::Model::new(&as_olmo2(config, context), weights)?)),
    ..USUAL
};

network!(olmo2::Model);

fn as_olmo2(c: &Config, context: usize) -> olmo2::Config {
    olmo2::Config {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        attention_bias: c.attention_bias,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads,
        rms_norm_eps: c.rms_norm_eps,
        hidden_act: Activation::Silu,
        max_position_embeddings: context,
        rope_theta: c.rope.theta,
        tie_word_embeddings: c.tie_word_embeddings,
        clip_qkv: None,
    }
}
