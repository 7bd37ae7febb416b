//! `GLMRegressor` and `GLMClassifier`: generalized linear models.

use super::data_structures::ClassLabels;

/// A linear map with one row of weights per output, then a function of the result.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GlmRegressor {
    #[prost(message, repeated, tag = "1")]
    pub weights: Vec<DoubleArray>,
    /// Bias of each output.
    #[prost(double, repeated, tag = "2")]
    pub offset: Vec<f64>,
    /// A value of [`RegressionTransform`].
    #[prost(int32, tag = "3")]
    pub post_evaluation_transform: i32,
}

/// A linear map whose results are turned into class probabilities.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GlmClassifier {
    /// One row per class; with [`ClassEncoding::ReferenceClass`] none for the first class.
    #[prost(message, repeated, tag = "1")]
    pub weights: Vec<DoubleArray>,
    /// Bias of each row.
    #[prost(double, repeated, tag = "2")]
    pub offset: Vec<f64>,
    /// A value of [`ClassificationTransform`].
    #[prost(int32, tag = "3")]
    pub post_evaluation_transform: i32,
    /// A value of [`ClassEncoding`].
    #[prost(int32, tag = "4")]
    pub class_encoding: i32,
    #[prost(oneof = "ClassLabels", tags = "100, 101")]
    pub class_labels: Option<ClassLabels>,
}

/// A row of weights.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DoubleArray {
    #[prost(double, repeated, tag = "1")]
    pub value: Vec<f64>,
}

/// Function that a regressor applies to its linear result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum RegressionTransform {
    NoTransform = 0,
    /// 1 / (1 + e⁻ˣ).
    Logit = 1,
    /// Cumulative distribution function of the standard normal distribution.
    Probit = 2,
}

/// Function that turns a score into a probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ClassificationTransform {
    /// 1 / (1 + e⁻ˣ), over several classes the softmax.
    Logit = 0,
    /// Cumulative distribution function of the standard normal distribution; two classes only.
    Probit = 1,
}

/// Encoding of the classes as rows of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ClassEncoding {
    /// All but the first class, whose score is 0.
    ReferenceClass = 0,
    /// Every class, each against all others; with two classes one row, for the second.
    OneVsRest = 1,
}
