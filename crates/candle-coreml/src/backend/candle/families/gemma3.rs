//! Gemma 3, text.

use candle_core::Tensor;
use candle_nn::Activation;
use candle_transformers::models::gemma3;

use super::weights::{self, Affine};
use super::{AttentionBias, Config, Family, Network, USUAL, gemma2, setting};
use crate::error::Error;

/// candle-transformers computes the rotary angles in the model's dtype.
pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    rope_theta: 1_000_000.0,
    head_dim: Some(256),
    free_head_dim: true,
    attention_bias: AttentionBias::AllIfConfigured,
    activations: &["gelu_pytorch_tanh"],
    tied: true,
    needs_f32: true,
    layer: |config, _| {
        let heads = weights::norms(&["self_attn.q_norm", "self_attn.k_norm"], config.head_dim);
        [gemma2::layer(config), heads].concat()
    },
    check: |config| {
        gemma2::check(config)?;
        Own::of(config).map(|_| ())
    },
    build: |config, weights, _, _, context| {
        let own = Own::of(config).map_err(Error::Request)?;
        let by = gemma2::attention_factor(config).map_err(Error::Request)?;
        // A gain is 1 + weight.
        let weights = weights::changed(weights, move |name| {
            (by != 1.0 && name.ends_with(".q_norm.weight")).then_some(Affine { by, plus: by - 1.0 })
        });
        let model = gemma3::Model::new(false, &as_gemma3(config, own, context)?, weights)?;
        // candle-transformers appends the values of several tokens to a cache only where they have one head.
        let together = if config.num_key_value_heads == 1 { own.window } else { 1 };
        Ok(Box::new(Windowed { model, window: own.window, together }))
    },
    ..USUAL
};

/// Settings of this family.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Own {
    window: usize,
    /// Every so many layers, one without a window.
    pattern: usize,
    local_theta: f64,
}

impl Own {
    fn of(c: &Config) -> Result<Self, String> {
        let window = setting::<usize>(c, "sliding_window")?.unwrap_or(4096);
        if window == 0 || window > 1 << 28 {
            return Err(format!("sliding_window is {window}: expected 1 to {}", 1 << 28));
        }
        let named = ["sliding_window_pattern", "_sliding_window_pattern"].into_iter();
        let mut pattern =
            named.map(|n| setting::<usize>(c, n)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().next();
        let kinds = setting::<Vec<String>>(c, "layer_types")?;
        if let Some(kinds) = &kinds {
            // Without a full one, any pattern longer than the layers.
            pattern = Some(kinds.iter().position(|k| k == "full_attention").unwrap_or(kinds.len()) + 1);
        }
        let pattern = pattern.unwrap_or(6);
        if pattern == 0 {
            return Err("sliding_window_pattern is 0: expected at least 1".to_owned());
        }
        let regular = |(i, kind): (usize, &String)| {
            kind == if (i + 1).is_multiple_of(pattern) { "full_attention" } else { "sliding_attention" }
        };
        if kinds.is_some_and(|k| k.len() != c.num_hidden_layers || !k.iter().enumerate().all(regular)) {
            return Err(format!(
                "layer_types: expected full_attention in every layer {pattern}, sliding_attention elsewhere"
            ));
        }
        let parameters = c.more.get("rope_parameters").and_then(|p| p.get("sliding_attention"));
        let kind = parameters.and_then(|p| p.get("rope_type")).and_then(|v| v.as_str()).unwrap_or("default");
        if kind != "default" {
            return Err(format!("rope scaling `{kind}` of sliding_attention is not supported for this model_type"));
        }
        let local = parameters.and_then(|p| p.get("rope_theta")).and_then(serde_json::Value::as_f64);
        let local_theta = local.or(setting(c, "rope_local_base_freq")?).unwrap_or(10_000.0);
        if !(local_theta.is_finite() && local_theta > 1.0) {
            return Err(format!("rope_local_base_freq is {local_theta}: expected a number above 1"));
        }
        Ok(Self { window, pattern, local_theta })
    }
}

/// Beyond the window, one token at a time: candle-transformers' mask of several tokens is that of a cache that does not
/// rotate.
struct Windowed {
    model: gemma3::Model,
    window: usize,
    /// Number of cached tokens up to which several run at once.
    together: usize,
}

impl Network for Windowed {
    fn forward(&mut self, ids: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        let count = ids.dim(1)?;
        let together = self.together.saturating_sub(position).min(count);
        let mut logits = None;
        if together > 0 {
            logits = Some(self.model.forward(&ids.narrow(1, 0, together)?.contiguous()?, position)?);
        }
        for at in together..count {
            logits = Some(self.model.forward(&ids.narrow(1, at, 1)?.contiguous()?, position + at)?);
        }
        logits.ok_or_else(|| candle_core::Error::Msg("no tokens".to_owned()))
    }

    fn fork(&self) -> Box<dyn Network> {
        Box::new(Self { model: self.model.clone(), window: self.window, together: self.together })
    }

    fn window(&self) -> Option<usize> {
        Some(self.window)
    }
}

fn as_gemma3(c: &Config, own: Own, context: usize) -> crate::error::Result<gemma3::Config> {
    let cap = |name| setting::<f64>(c, name).map_err(Error::Request);
    Ok(gemma3::Config {
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
        rope_local_base_freq: own.local_theta,
        vocab_size: c.vocab_size,
        final_logit_softcapping: cap("final_logit_softcapping")?,
        attn_logit_softcapping: cap("attn_logit_softcapping")?,
        query_pre_attn_scalar: c.head_dim,
        sliding_window: own.window,
        sliding_window_pattern: own.pattern,
        max_position_embeddings: context,
    })
}
