//! `ArrayFeatureExtractor`: elements of an array.

/// Selects elements; a single one becomes a scalar.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArrayFeatureExtractor {
    /// Positions in the array, from 0.
    #[prost(uint64, repeated, tag = "1")]
    pub extract_index: Vec<u64>,
}
