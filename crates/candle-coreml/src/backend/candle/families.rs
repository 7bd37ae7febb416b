//! Checkpoint families: their differences, and their networks in candle-transformers.
//!
//! A family is one file and one row in [`FAMILIES`].

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::config::Config;
use crate::error::Result;

/// A network of candle-transformers that has its cache inside.
macro_rules! network {
    ($model:ty) => {
        impl super::Network for $model {
            fn forward(
                &mut self,
                ids: &candle_core::Tensor,
                position: usize,
            ) -> candle_core::Result<candle_core::Tensor> {
                self.forward(ids, position)
            }

            fn fork(&self) -> Box<dyn super::Network> {
                Box::new(self.clone())
            }
        }
    };
}

mod gemma2;
mod gemma3;
mod granite;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;
mod weights;

pub(in crate::backend) use weights::Tensors;

/// Every family, in the order in which errors list them.
pub(in crate::backend) const FAMILIES: [&Family; 11] = [
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &qwen3_moe::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
    &smollm3::FAMILY,
    &granite::FAMILY,
    &olmo2::FAMILY,
];

/// Properties of a family, and its network.
#[derive(Debug)]
pub(in crate::backend) struct Family {
    /// `model_type` in `config.json`.
    pub(super) model_type: &'static str,
    /// Default of `rope_theta`.
    pub(super) rope_theta: f64,
    /// True if `rope_type` may be `llama3`.
    pub(super) llama3_rope: bool,
    /// Default of `head_dim`; `None`: hidden size / heads.
    pub(super) head_dim: Option<usize>,
    /// True if `head_dim` may differ from hidden size / heads.
    pub(super) free_head_dim: bool,
    /// Biases of the attention projections.
    pub(super) attention_bias: AttentionBias,
    /// True if `mlp_bias` may be set.
    pub(super) mlp_bias: bool,
    /// Names of the activation; the first is the default.
    pub(super) activations: &'static [&'static str],
    /// Default of `tie_word_embeddings`.
    pub(super) tied: bool,
    /// True if the network is exact only in f32.
    pub(super) needs_f32: bool,
    /// Tensors of a layer.
    pub(super) layer: fn(&Config, usize) -> Tensors,
    /// Rejects what the network would silently ignore in `config.more`, and bounds the positions to those for which it
    /// is exact.
    pub(super) check: fn(&mut Config) -> std::result::Result<(), String>,
    /// Builds the network from checked weights, for positions up to the context length.
    pub(super) build: fn(&Config, VarBuilder<'static>, DType, &Device, usize) -> Result<Box<dyn Network>>,
}

/// Biases of the attention projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttentionBias {
    /// Always on queries, keys and values.
    InputsAlways,
    /// On all four projections if `attention_bias` is set.
    AllIfConfigured,
    /// Not supported.
    Never,
}

/// What most families have; they name their differences.
const USUAL: Family = Family {
    model_type: "",
    rope_theta: 10_000.0,
    llama3_rope: false,
    head_dim: None,
    free_head_dim: false,
    attention_bias: AttentionBias::Never,
    mlp_bias: false,
    activations: &["silu", "swish"],
    tied: false,
    needs_f32: false,
    layer: |config, _| weights::llama(config),
    check: |_| Ok(()),
    build: |config, _, _, _, _| {
        Err(crate::error::Error::Unavailable(format!("no network for model_type `{}`", config.family.model_type)))
    },
};

impl Family {
    /// The family of a `model_type`.
    pub(super) fn find(model_type: &str) -> std::result::Result<&'static Self, String> {
        FAMILIES.into_iter().find(|f| f.model_type == model_type).ok_or_else(|| {
            let names = FAMILIES.map(|f| f.model_type);
            let [others @ .., last] = &names;
            format!("model_type `{model_type}`: expected {} or {last}", others.join(", "))
        })
    }
}

/// A network with its cache.
pub(super) trait Network: Send {
    /// Logits after the last of `ids` `[1, n]` (U32), which follow `position` cached tokens.
    fn forward(&mut self, ids: &Tensor, position: usize) -> candle_core::Result<Tensor>;

    /// An independent copy that shares the weights and the current cache contents.
    fn fork(&self) -> Box<dyn Network>;

    /// Number of cached tokens beyond which new ones overwrite old ones, also in copies; `None`: they never do.
    fn window(&self) -> Option<usize> {
        None
    }
}

impl Clone for Box<dyn Network> {
    fn clone(&self) -> Self {
        (**self).fork()
    }
}

/// A setting of `config.json`; null is absent.
fn setting<T: serde::de::DeserializeOwned>(config: &Config, name: &str) -> std::result::Result<Option<T>, String> {
    match config.more.get(name) {
        None => Ok(None),
        Some(value) => serde_json::from_value(value.clone()).map_err(|e| format!("{name}: {e}")),
    }
}

/// Bounds the positions to the length of a sliding window that the network lacks: up to there, the window hides nothing.
fn within_window(config: &mut Config) -> std::result::Result<(), String> {
    match setting::<usize>(config, "sliding_window")? {
        Some(0) => Err("sliding_window is 0: expected at least 1".to_owned()),
        Some(window) => {
            config.max_position_embeddings = config.max_position_embeddings.min(window);
            Ok(())
        }
        None => Ok(()),
    }
}

/// A factor of `config.json`.
fn factor(config: &Config, name: &str, default: f64) -> std::result::Result<f64, String> {
    let value = setting::<f64>(config, name)?.unwrap_or(default);
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(format!("{name} is {value}: expected a number above 0"))
    }
}
