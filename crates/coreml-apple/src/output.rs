//! What a prediction returns.

use candle_core::Tensor;

/// One result.
#[derive(Debug, Clone)]
pub enum Output {
    /// A tensor on the CPU, in the element type that the framework returned (int8 as `I16`). Integer and
    /// floating-point scalars are `I64` and `F64` tensors of rank 0.
    Tensor(Tensor),
    /// A string, such as the label of a classifier.
    Text(String),
    /// Numbers by key, such as class probabilities.
    Dictionary(Vec<(Key, f64)>),
}

/// A key of a dictionary.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A string.
    Text(String),
    /// An integer.
    Int(i64),
}
