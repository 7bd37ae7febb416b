//! Arithmetic, comparisons, and elementwise functions.

use super::weights::WeightParams;

/// A function of scale · x + shift.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct UnaryFunction {
    /// A value of [`UnaryOperation`].
    #[prost(int32, tag = "1")]
    pub ty: i32,
    /// Exponent or threshold.
    #[prost(float, tag = "2")]
    pub alpha: f32,
    /// 0 means 10⁻⁶.
    #[prost(float, tag = "3")]
    pub epsilon: f32,
    #[prost(float, tag = "4")]
    pub shift: f32,
    /// 0 means 1.
    #[prost(float, tag = "5")]
    pub scale: f32,
}

/// Elementwise functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum UnaryOperation {
    Sqrt = 0,
    /// 1 / √(x + ε).
    Rsqrt = 1,
    /// 1 / (x + ε).
    Inverse = 2,
    /// x^α.
    Power = 3,
    Exp = 4,
    Log = 5,
    Abs = 6,
    /// max(α, x).
    Threshold = 7,
}

/// Sum of all inputs, or of one input and α. Extents of 1 are broadcast.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Add {
    #[prost(float, tag = "1")]
    pub alpha: f32,
}

/// Product of all inputs, or of one input and α. Extents of 1 are broadcast.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Multiply {
    #[prost(float, tag = "1")]
    pub alpha: f32,
}

/// scale · x + bias.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scale {
    /// `[1]`, `[C]`, `[1, H, W]` or `[C, H, W]`.
    #[prost(uint64, repeated, tag = "1")]
    pub shape_scale: Vec<u64>,
    #[prost(message, optional, boxed, tag = "2")]
    pub scale: Option<Box<WeightParams>>,
    #[prost(bool, tag = "3")]
    pub has_bias: bool,
    /// Same as for `shape_scale`.
    #[prost(uint64, repeated, tag = "4")]
    pub shape_bias: Vec<u64>,
    #[prost(message, optional, boxed, tag = "5")]
    pub bias: Option<Box<WeightParams>>,
}

/// x + bias.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bias {
    /// `[1]`, `[C]`, `[1, H, W]` or `[C, H, W]`.
    #[prost(uint64, repeated, tag = "1")]
    pub shape: Vec<u64>,
    #[prost(message, optional, boxed, tag = "2")]
    pub bias: Option<Box<WeightParams>>,
}

/// Dot product along axis −3.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct DotProduct {
    /// Both inputs are normalized.
    #[prost(bool, tag = "1")]
    pub cosine_similarity: bool,
}

/// Clamps x to the range.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Clip {
    #[prost(float, tag = "1")]
    pub min_val: f32,
    #[prost(float, tag = "2")]
    pub max_val: f32,
}

/// Equality comparison of two inputs, or of one with α.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Equality {
    #[prost(float, tag = "1")]
    pub alpha: f32,
}

/// Order comparison of two inputs, or of one with α.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Order {
    #[prost(float, tag = "2")]
    pub alpha: f32,
}
