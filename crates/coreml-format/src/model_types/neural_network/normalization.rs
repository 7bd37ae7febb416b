//! Normalizations.

use super::weights::WeightParams;

/// γ (x − μ) / √(σ² + ε) + β along axis −3.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batchnorm {
    #[prost(uint64, tag = "1")]
    pub channels: u64,
    /// Computes mean and variance from the data.
    #[prost(bool, tag = "5")]
    pub compute_mean_var: bool,
    /// Computes them per instance instead of over the batch.
    #[prost(bool, tag = "6")]
    pub instance_normalization: bool,
    /// 0 means 10⁻⁵.
    #[prost(float, tag = "10")]
    pub epsilon: f32,
    #[prost(message, optional, boxed, tag = "15")]
    pub gamma: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "16")]
    pub beta: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "17")]
    pub mean: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "18")]
    pub variance: Option<Box<WeightParams>>,
}

/// Subtracts the mean, and divides by the standard deviation, over the last two axes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct MeanVarianceNormalize {
    /// Normalizes over the last three axes.
    #[prost(bool, tag = "1")]
    pub across_channels: bool,
    /// Divides by the standard deviation.
    #[prost(bool, tag = "2")]
    pub normalize_variance: bool,
    /// 0 means 10⁻⁶.
    #[prost(float, tag = "3")]
    pub epsilon: f32,
}

/// x / √(Σ x² + ε) over the last three axes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct L2Normalize {
    /// 0 means 10⁻⁶.
    #[prost(float, tag = "1")]
    pub epsilon: f32,
}

/// x / (k + α / n · Σ x²)^β over a window of n channels.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LocalResponseNormalization {
    #[prost(float, tag = "1")]
    pub alpha: f32,
    #[prost(float, tag = "2")]
    pub beta: f32,
    /// The n.
    #[prost(uint64, tag = "3")]
    pub local_size: u64,
    /// 0 means 1.
    #[prost(float, tag = "4")]
    pub k: f32,
}

/// γ (x − μ) / √(σ² + ε) + β over the last axes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LayerNormalization {
    /// Extents of these axes; also the shape of γ and β.
    #[prost(int64, repeated, tag = "1")]
    pub normalized_shape: Vec<i64>,
    #[prost(float, tag = "2")]
    pub eps: f32,
    #[prost(message, optional, boxed, tag = "3")]
    pub gamma: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub beta: Option<Box<WeightParams>>,
}
