//! Activation functions.

use super::weights::WeightParams;
use crate::model_types::data_structures::Empty;

/// An activation function, as a layer or within a recurrent one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Activation {
    #[prost(oneof = "Nonlinearity", tags = "5, 10, 15, 20, 25, 30, 31, 40, 41, 50, 60, 70, 71")]
    pub function: Option<Nonlinearity>,
}

/// Activation functions.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Nonlinearity {
    /// αx + β.
    #[prost(message, tag = "5")]
    Linear(AlphaBeta),
    #[prost(message, tag = "10")]
    Relu(Empty),
    /// x, or αx below zero.
    #[prost(message, tag = "15")]
    LeakyRelu(Alpha),
    /// x if x ≥ α, else 0.
    #[prost(message, tag = "20")]
    ThresholdedRelu(Alpha),
    /// x, or αx below zero, with an α per channel.
    #[prost(message, tag = "25")]
    PRelu(ChannelAlpha),
    #[prost(message, tag = "30")]
    Tanh(Empty),
    /// α tanh(βx).
    #[prost(message, tag = "31")]
    ScaledTanh(AlphaBeta),
    #[prost(message, tag = "40")]
    Sigmoid(Empty),
    /// αx + β, clipped to 0..1.
    #[prost(message, tag = "41")]
    SigmoidHard(AlphaBeta),
    /// x, or α(eˣ − 1) below zero.
    #[prost(message, tag = "50")]
    Elu(Alpha),
    /// x / (1 + |x|).
    #[prost(message, tag = "60")]
    Softsign(Empty),
    /// ln(1 + eˣ).
    #[prost(message, tag = "70")]
    Softplus(Empty),
    /// α ln(1 + e^(βx)) with an α and a β per channel.
    #[prost(message, tag = "71")]
    ParametricSoftplus(ChannelAlphaBeta),
}

/// The α of a function.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Alpha {
    #[prost(float, tag = "1")]
    pub alpha: f32,
}

/// The α and β of a function.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct AlphaBeta {
    #[prost(float, tag = "1")]
    pub alpha: f32,
    #[prost(float, tag = "2")]
    pub beta: f32,
}

/// One α per channel, or one for all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChannelAlpha {
    #[prost(message, optional, boxed, tag = "1")]
    pub alpha: Option<Box<WeightParams>>,
}

/// One α and one β per channel, or one for all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChannelAlphaBeta {
    #[prost(message, optional, boxed, tag = "1")]
    pub alpha: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "2")]
    pub beta: Option<Box<WeightParams>>,
}

/// min(β, x), or min(β, αx) below zero.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ClampedRelu {
    #[prost(float, tag = "1")]
    pub alpha: f32,
    #[prost(float, tag = "2")]
    pub beta: f32,
}

/// The Gaussian error linear unit.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Gelu {
    /// A value of [`GeluMode`].
    #[prost(int32, tag = "1")]
    pub mode: i32,
}

/// Variant of GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum GeluMode {
    /// x Φ(x).
    Exact = 0,
    /// With the tanh approximation of erf.
    TanhApproximation = 1,
    /// x σ(1.702x).
    SigmoidApproximation = 2,
}

/// Softmax along an axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SoftmaxNd {
    #[prost(int64, tag = "1")]
    pub axis: i64,
}
