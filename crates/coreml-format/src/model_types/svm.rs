//! `SupportVectorRegressor` and `SupportVectorClassifier`: support vector machines, as libsvm defines them.

use super::data_structures::{ClassLabels, Empty};

/// Σ αᵢ K(svᵢ, x) − ρ.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SupportVectorRegressor {
    #[prost(message, optional, tag = "1")]
    pub kernel: Option<Kernel>,
    #[prost(oneof = "RegressorVectors", tags = "2, 3")]
    pub support_vectors: Option<RegressorVectors>,
    #[prost(message, optional, tag = "4")]
    pub coefficients: Option<Coefficients>,
    #[prost(double, tag = "5")]
    pub rho: f64,
}

/// One decision value for each pair of classes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SupportVectorClassifier {
    #[prost(message, optional, tag = "1")]
    pub kernel: Option<Kernel>,
    /// Number of support vectors per class, by which they are sorted.
    #[prost(int32, repeated, tag = "2")]
    pub number_of_support_vectors_per_class: Vec<i32>,
    #[prost(oneof = "ClassifierVectors", tags = "3, 4")]
    pub support_vectors: Option<ClassifierVectors>,
    /// One row fewer than the number of classes, each with a value per support vector.
    #[prost(message, repeated, tag = "5")]
    pub coefficients: Vec<Coefficients>,
    /// One value per pair of classes, in libsvm's order.
    #[prost(double, repeated, tag = "6")]
    pub rho: Vec<f64>,
    /// Slope of each pair's sigmoid; empty if the model has no probabilities.
    #[prost(double, repeated, tag = "7")]
    pub prob_a: Vec<f64>,
    /// Shift of each pair's sigmoid.
    #[prost(double, repeated, tag = "8")]
    pub prob_b: Vec<f64>,
    #[prost(oneof = "ClassLabels", tags = "100, 101")]
    pub class_labels: Option<ClassLabels>,
}

/// Support vectors of a regressor.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum RegressorVectors {
    #[prost(message, tag = "2")]
    Sparse(SparseSupportVectors),
    #[prost(message, tag = "3")]
    Dense(DenseSupportVectors),
}

/// Support vectors of a classifier, sorted by class.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ClassifierVectors {
    #[prost(message, tag = "3")]
    Sparse(SparseSupportVectors),
    #[prost(message, tag = "4")]
    Dense(DenseSupportVectors),
}

/// The kernel of a support vector machine.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Kernel {
    #[prost(oneof = "KernelKind", tags = "1, 2, 3, 4")]
    pub kernel: Option<KernelKind>,
}

/// Kernel functions K(x, y).
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum KernelKind {
    /// xᵀy.
    #[prost(message, tag = "1")]
    Linear(Empty),
    /// e^(−γ ‖x − y‖²).
    #[prost(message, tag = "2")]
    Rbf(RbfKernel),
    /// (γ xᵀy + c)^degree.
    #[prost(message, tag = "3")]
    Polynomial(PolynomialKernel),
    /// tanh(γ xᵀy + c).
    #[prost(message, tag = "4")]
    Sigmoid(SigmoidKernel),
}

/// Parameters of the radial basis function kernel.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RbfKernel {
    #[prost(double, tag = "1")]
    pub gamma: f64,
}

/// Parameters of the polynomial kernel.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PolynomialKernel {
    #[prost(int32, tag = "1")]
    pub degree: i32,
    #[prost(double, tag = "2")]
    pub c: f64,
    #[prost(double, tag = "3")]
    pub gamma: f64,
}

/// Parameters of the sigmoid kernel.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SigmoidKernel {
    #[prost(double, tag = "1")]
    pub gamma: f64,
    #[prost(double, tag = "2")]
    pub c: f64,
}

/// Sparse support vectors.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SparseSupportVectors {
    #[prost(message, repeated, tag = "1")]
    pub vectors: Vec<SparseVector>,
}

/// The nonzero elements of a vector.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SparseVector {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<SparseNode>,
}

/// One element of a sparse vector.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SparseNode {
    /// Index in the vector, from 1.
    #[prost(int32, tag = "1")]
    pub index: i32,
    #[prost(double, tag = "2")]
    pub value: f64,
}

/// Dense support vectors.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DenseSupportVectors {
    #[prost(message, repeated, tag = "1")]
    pub vectors: Vec<DenseVector>,
}

/// A support vector.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DenseVector {
    #[prost(double, repeated, tag = "1")]
    pub values: Vec<f64>,
}

/// One coefficient per support vector.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Coefficients {
    #[prost(double, repeated, tag = "1")]
    pub alpha: Vec<f64>,
}
