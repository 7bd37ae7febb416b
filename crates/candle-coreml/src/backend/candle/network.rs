//! The networks of candle-transformers behind one form.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{llama, qwen2, qwen3};

use super::checkpoint::Checkpoint;
use super::config::{Config, Family};
use crate::error::Result;

/// A network with its cache. Clones share the weights and what is in the cache, and go on separately.
#[derive(Clone)]
pub(super) enum Network {
    Qwen2(Box<qwen2::ModelForCausalLM>),
    Qwen3(Box<qwen3::ModelForCausalLM>),
    Llama { model: std::sync::Arc<llama::Llama>, cache: Box<llama::Cache> },
}

/// Opens the tensors for a network.
fn tensors(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> candle_core::Result<VarBuilder<'static>> {
    // SAFETY: the files are mapped for reading; as with every mapped weight file, nobody may change them while
    // the model is loaded.
    unsafe { VarBuilder::from_mmaped_safetensors(&checkpoint.files, dtype, device) }
}

/// The weights without the one of the head. Where it ties, this network takes a head all the same when the files
/// have one; transformers does not.
fn without_head(weights: VarBuilder<'static>) -> VarBuilder<'static> {
    weights.rename_f(|name| if name == "lm_head.weight" { "lm_head.unused".to_owned() } else { name.to_owned() })
}

impl Network {
    /// Builds the network of a checkpoint, for positions up to `context`.
    pub(super) fn load(checkpoint: &Checkpoint, device: &Device, dtype: DType, context: usize) -> Result<Self> {
        let (config, weights) = (&checkpoint.config, tensors(checkpoint, device, dtype)?);
        Ok(match config.family {
            Family::Qwen2 => {
                let weights = if config.tie_word_embeddings { without_head(weights) } else { weights };
                Self::Qwen2(Box::new(qwen2::ModelForCausalLM::new(&as_qwen2(config, context), weights)?))
            }
            Family::Qwen3 => Self::Qwen3(Box::new(qwen3::ModelForCausalLM::new(&as_qwen3(config, context), weights)?)),
            Family::Llama => {
                let config = as_llama(config, context);
                let model = std::sync::Arc::new(llama::Llama::load(weights, &config)?);
                Self::Llama { model, cache: Box::new(llama::Cache::new(true, dtype, &config, device)?) }
            }
        })
    }

    /// Logits after the last of `ids` `[1, n]` (U32), which follow `position` tokens in the cache.
    pub(super) fn forward(&mut self, ids: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        match self {
            Self::Qwen2(model) => model.forward(ids, position),
            Self::Qwen3(model) => model.forward(ids, position),
            Self::Llama { model, cache } => model.forward(ids, position, cache),
        }
    }
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
        // Its mask always has a window; one as long as the context hides nothing.
        sliding_window: context,
        max_window_layers: c.num_hidden_layers,
        tie_word_embeddings: c.tie_word_embeddings,
        rope_theta: c.rope.theta,
        rms_norm_eps: c.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    }
}

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

fn as_llama(c: &Config, context: usize) -> llama::Config {
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
