//! Qwen 2 and 2.5.

use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::qwen2;

use super::{AttentionBias, Config, Family, USUAL};

/// candle-transformers computes the rotary angles in the model's dtype. 16-bit types can't distinguish large positions
/// (bf16 from 256 on), so this family always runs in f32.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    rope_theta: 1_000_000.0,
    attention_bias: AttentionBias::InputsAlways,
    needs_f32: true,
    build: |config, weights, _, _, context| {
        let weights = if config.tie_word_embeddings { without_head(weights) } else { weights };
        Ok(Box::new(qwen2::ModelForCausalLM::new(&as_qwen2(config, context), weights)?))
    },
    ..USUAL
};

network!(qwen2::ModelForCausalLM);

/// The weights without the head. With tied embeddings this network still uses a head if the files have one;
/// transformers does not.
fn without_head(weights: VarBuilder<'static>) -> VarBuilder<'static> {
    weights.rename_f(|name| if name == "lm_head.weight" { "lm_head.unused".to_owned() } else { name.to_owned() })
}

fn as_qwen2(c: &Config, context: usize) -> qwen2::Config {
    qwen2::Config {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads,
        max_position_embeddings: context,
        // Its mask always has a sliding window; one as long as the context hides nothing.
        sliding_window: context,
        max_window_layers: c.num_hidden_layers,
        tie_word_embeddings: c.tie_word_embeddings,
        rope_theta: c.rope.theta,
        rms_norm_eps: c.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    }
}
