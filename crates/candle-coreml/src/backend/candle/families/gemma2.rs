//! Gemma 2, up to its sliding window.

use candle_nn::Activation;
use candle_transformers::models::gemma2;

use super::weights::{self, Affine, Tensors};
use super::{AttentionBias, Config, Family, USUAL, factor, setting, within_window};

/// candle-transformers has one mask for all layers, so the context ends with the window of every second one. It
/// computes the rotary angles in the model's dtype.
pub(super) const FAMILY: Family = Family {
    model_type: "gemma2",
    head_dim: Some(256),
    free_head_dim: true,
    attention_bias: AttentionBias::AllIfConfigured,
    activations: &["gelu_pytorch_tanh"],
    tied: true,
    needs_f32: true,
    layer: |config, _| layer(config),
    check: |config| {
        check(config)?;
        within_window(config)
    },
    build: |config, weights, _, _, context| {
        let by = attention_factor(config).map_err(crate::error::Error::Request)?;
        let weights = weights::changed(weights, move |name| {
            (by != 1.0 && name.contains(".q_proj.")).then_some(Affine { by, plus: 0.0 })
        });
        Ok(Box::new(gemma2::Model::new(false, &as_gemma2(config, context)?, weights)?))
    },
    ..USUAL
};

network!(gemma2::Model);

/// Tensors of a layer: norms before and after attention and the gated network.
pub(super) fn layer(c: &Config) -> Tensors {
    let around =
        ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];
    [weights::attention(c), weights::gated(c, "mlp", c.intermediate_size), weights::norms(&around, c.hidden_size)]
        .concat()
}

/// Rejects what Gemma's networks ignore.
pub(super) fn check(c: &mut Config) -> Result<(), String> {
    if !c.tie_word_embeddings {
        return Err("tie_word_embeddings is false: a Gemma with a head of its own is not supported".to_owned());
    }
    if setting::<bool>(c, "use_bidirectional_attention")? == Some(true) {
        return Err("use_bidirectional_attention: expected a model that generates text".to_owned());
    }
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        factor(c, name, 1.0)?;
    }
    attention_factor(c).map(|_| ())
}

/// Scores are scaled by `query_pre_attn_scalar`, candle-transformers' by `head_dim`: the factor between their roots.
pub(super) fn attention_factor(c: &Config) -> Result<f64, String> {
    Ok((c.head_dim as f64 / factor(c, "query_pre_attn_scalar", 256.0)?).sqrt())
}

fn as_gemma2(c: &Config, context: usize) -> crate::error::Result<gemma2::Config> {
    let cap = |name| setting::<f64>(c, name).map_err(crate::error::Error::Request);
    Ok(gemma2::Config {
        attention_bias: c.attention_bias,
        head_dim: c.head_dim,
        hidden_activation: Activation::GeluPytorchTanh,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_attention_heads: c.num_attention_heads,
        num_hidden_layers: c.num_hidden_layers,
        num_key_value_heads: c.num_key_value_heads,
        rms_norm_eps: c.rms_norm_eps,
        rope_theta: c.rope.theta,
        vocab_size: c.vocab_size,
        final_logit_softcapping: cap("final_logit_softcapping")?,
        attn_logit_softcapping: cap("attn_logit_softcapping")?,
        query_pre_attn_scalar: c.head_dim,
        sliding_window: None,
        max_position_embeddings: context,
    })
}
