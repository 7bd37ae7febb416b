//! Reductions, argmin/argmax, sorting.

/// Reduction over some of the last three axes, which are kept with extent 1.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Reduce {
    /// A value of [`ReduceOperation`].
    #[prost(int32, tag = "1")]
    pub mode: i32,
    /// Added before a logarithm; 0 means 10⁻⁶.
    #[prost(float, tag = "2")]
    pub epsilon: f32,
    /// A value of [`ReduceAxis`].
    #[prost(int32, tag = "3")]
    pub axis: i32,
}

/// Reduction operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ReduceOperation {
    Sum = 0,
    Average = 1,
    Product = 2,
    /// Σ ln(x + ε).
    LogSum = 3,
    SumSquare = 4,
    /// Σ |x|.
    L1 = 5,
    /// √Σ x².
    L2 = 6,
    Max = 7,
    Min = 8,
    ArgMax = 9,
}

/// Reduced axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ReduceAxis {
    Chw = 0,
    Hw = 1,
    C = 2,
    H = 3,
    W = 4,
}

/// Reduction over some axes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReduceAxes {
    #[prost(int64, repeated, tag = "1")]
    pub axes: Vec<i64>,
    /// Keeps reduced axes with extent 1.
    #[prost(bool, tag = "2")]
    pub keep_dims: bool,
    /// Reduces all axes.
    #[prost(bool, tag = "3")]
    pub reduce_all: bool,
}

/// Index of an extremum along an axis, as a float.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ArgReduce {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// Removes the reduced axis.
    #[prost(bool, tag = "2")]
    pub remove_dim: bool,
}

/// The k largest elements along an axis, and their indices.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TopK {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// Overridden by a second input.
    #[prost(uint64, tag = "2")]
    pub k: u64,
    /// Selects the smallest elements instead.
    #[prost(bool, tag = "3")]
    pub use_bottom_k: bool,
}

/// Indices that sort an axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ArgSort {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    #[prost(bool, tag = "2")]
    pub descending: bool,
}

/// Cumulative sum along an axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CumSum {
    /// Overridden by a second input.
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// Computes the exclusive sum.
    #[prost(bool, tag = "2")]
    pub exclude_final_sum: bool,
    /// Sums from the end.
    #[prost(bool, tag = "3")]
    pub reverse: bool,
}
