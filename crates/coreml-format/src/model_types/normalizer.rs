//! `Normalizer`: scales vectors to norm 1.

/// x / norm.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Normalizer {
    /// A value of [`NormType`].
    #[prost(int32, tag = "1")]
    pub norm_type: i32,
}

/// The norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum NormType {
    /// The largest element.
    Max = 0,
    /// The sum of absolute values.
    L1 = 1,
    /// Square root of the sum of squares.
    L2 = 2,
}
