//! Llama 2 and 3, and models with the same architecture.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;

use super::{Config, Family, Network, USUAL};

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    llama3_rope: true,
    build: |config, weights, dtype, device, context| {
        let config = as_llama(config, context);
        Ok(Box::new(Cached::new(&config, weights, dtype, device)?))
    },
    ..USUAL
};

/// candle-transformers' Llama keeps its cache outside the model.
pub(super) struct Cached {
    model: Arc<llama::Llama>,
    cache: llama::Cache,
}

impl Cached {
    pub(super) fn new(
        config: &llama::Config,
        weights: VarBuilder<'static>,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let model = Arc::new(llama::Llama::load(weights, config)?);
        Ok(Self { model, cache: llama::Cache::new(true, dtype, config, device)? })
    }
}

impl Network for Cached {
    fn forward(&mut self, ids: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        self.model.forward(ids, position, &mut self.cache)
    }

    fn fork(&self) -> Box<dyn Network> {
        Box::new(Self { model: self.model.clone(), cache: self.cache.clone() })
    }
}

pub(super) fn as_llama(c: &Config, context: usize) -> llama::Config {
    llama::Config {
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        vocab_size: c.vocab_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads,
        use_flash_attn: false,
        rms_norm_eps: c.rms_norm_eps,
        rope_theta: c.rope.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: c.rope.llama3.map(|s| llama::Llama3RopeConfig {
            factor: s.factor,
            low_freq_factor: s.low_freq_factor,
            high_freq_factor: s.high_freq_factor,
            original_max_position_embeddings: s.original_max_position_embeddings,
            rope_type: llama::Llama3RopeType::Llama3,
        }),
        max_position_embeddings: context,
        tie_word_embeddings: c.tie_word_embeddings,
    }
}
