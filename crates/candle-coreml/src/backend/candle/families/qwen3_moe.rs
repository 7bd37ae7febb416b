//! Qwen 3, mixture of experts.

use candle_nn::Activation;
use candle_transformers::models::qwen3_moe;

use super::weights::{self, Tensors};
use super::{AttentionBias, Config, Family, USUAL, qwen3, setting};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    rope_theta: 1_000_000.0,
    free_head_dim: true,
    attention_bias: AttentionBias::AllIfConfigured,
    layer: |config, index| {
        let own = Own::of(config).unwrap_or_default();
        qwen3::layer(config, own.feed_forward(config, index))
    },
    check: |config| {
        let own = Own::of(config)?;
        if own.experts > 1 << 12 || own.width > 1 << 20 {
            return Err(format!("{} experts of width {}: expected at most 4096 of 1048576", own.experts, own.width));
        }
        if own.experts > 0 && !(own.width > 0 && (1..=own.experts).contains(&own.per_token) && own.step > 0) {
            return Err(format!(
                "num_experts {}, num_experts_per_tok {}, moe_intermediate_size {}, decoder_sparse_step {}: \
                expected positive ones, no more experts per token than there are",
                own.experts, own.per_token, own.width, own.step
            ));
        }
        match setting::<Vec<usize>>(config, "mlp_only_layers")? {
            Some(layers) if !layers.is_empty() => {
                Err("mlp_only_layers: dense layers among those of experts are not supported".to_owned())
            }
            _ => Ok(()),
        }
    },
    build: |config, weights, _, _, context| {
        let own = Own::of(config).map_err(crate::error::Error::Request)?;
        Ok(Box::new(qwen3_moe::ModelForCausalLM::new(&as_qwen3_moe(config, own, context), weights)?))
    },
    ..USUAL
};

/// Settings of this family.
#[derive(Debug, Clone, Copy, Default)]
struct Own {
    experts: usize,
    per_token: usize,
    width: usize,
    step: usize,
    normalized: bool,
}

impl Own {
    /// Reads them; defaults are those of transformers.
    fn of(c: &Config) -> Result<Self, String> {
        Ok(Self {
            experts: match setting(c, "num_experts")? {
                Some(count) => count,
                None => setting(c, "num_local_experts")?.unwrap_or(128),
            },
            per_token: setting(c, "num_experts_per_tok")?.unwrap_or(8),
            width: setting(c, "moe_intermediate_size")?.unwrap_or(768),
            step: setting(c, "decoder_sparse_step")?.unwrap_or(1),
            normalized: setting(c, "norm_topk_prob")?.unwrap_or(false),
        })
    }

    fn feed_forward(self, c: &Config, index: usize) -> Tensors {
        if self.experts == 0 || self.step == 0 || !(index + 1).is_multiple_of(self.step) {
            return weights::gated(c, "mlp", c.intermediate_size);
        }
        let mut all = vec![("mlp.gate.weight".to_owned(), vec![self.experts, c.hidden_size])];
        for expert in 0..self.experts {
            all.extend(weights::gated(c, &format!("mlp.experts.{expert}"), self.width));
        }
        all
    }
}

network!(qwen3_moe::ModelForCausalLM);

fn as_qwen3_moe(c: &Config, own: Own, context: usize) -> qwen3_moe::Config {
    qwen3_moe::Config {
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
        decoder_sparse_step: own.step,
        moe_intermediate_size: own.width,
        num_experts_per_tok: own.per_token,
        num_experts: own.experts,
        norm_topk_prob: own.normalized,
    }
}
