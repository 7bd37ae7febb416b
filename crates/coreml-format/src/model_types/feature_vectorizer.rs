//! `FeatureVectorizer`: several features as one vector.

/// Numbers and arrays, concatenated in this order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FeatureVectorizer {
    #[prost(message, repeated, tag = "1")]
    pub input_list: Vec<InputColumn>,
}

/// One of the features.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InputColumn {
    /// Name of the input.
    #[prost(string, tag = "1")]
    pub input_column: String,
    /// Number of elements.
    #[prost(uint64, tag = "2")]
    pub input_dimensions: u64,
}
