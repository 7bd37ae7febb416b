//! Checkpoint families: their differences, and their networks in candle-transformers.
//!
//! A family is one file and one row in [`FAMILIES`].

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::config::Config;
use crate::error::Result;

mod llama;
mod qwen2;
mod qwen3;

/// Every family, in the order in which errors list them.
pub(in crate::backend) const FAMILIES: [&Family; 3] = [&qwen2::FAMILY, &qwen3::FAMILY, &llama::FAMILY];

/// Properties of a family, and its network.
#[derive(Debug)]
pub(in crate::backend) struct Family {
    /// `model_type` in `config.json`.
    pub(super) model_type: &'static str,
    /// Default of `rope_theta`.
    pub(super) rope_theta: f64,
    /// True if `rope_type` may be `llama3`.
    pub(super) llama3_rope: bool,
    /// True if `head_dim` may differ from hidden size / heads.
    pub(super) free_head_dim: bool,
    /// Biases of the attention projections.
    pub(super) attention_bias: AttentionBias,
    /// True if each attention layer has RMS norms over `head_dim`.
    pub(super) head_norms: &'static [&'static str],
    /// True if the network is exact only in f32.
    pub(super) needs_f32: bool,
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
}

impl Clone for Box<dyn Network> {
    fn clone(&self) -> Self {
        (**self).fork()
    }
}
