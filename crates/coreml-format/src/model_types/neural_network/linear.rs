//! Matrix products and embeddings.

use super::weights::WeightParams;

/// W x + b: over the last axis up to rank 3, over the last three axes flattened for higher ranks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InnerProduct {
    #[prost(uint64, tag = "1")]
    pub input_channels: u64,
    #[prost(uint64, tag = "2")]
    pub output_channels: u64,
    #[prost(bool, tag = "10")]
    pub has_bias: bool,
    /// `[out, in]`.
    #[prost(message, optional, boxed, tag = "20")]
    pub weights: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "21")]
    pub bias: Option<Box<WeightParams>>,
    /// Quantizes the input to 8 bits at run time; weights are i8.
    #[prost(bool, tag = "22")]
    pub int8_dynamic_quantize: bool,
}

/// Embedding lookup for inputs `[…, 1, 1, 1]`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Embedding {
    /// Number of vectors.
    #[prost(uint64, tag = "1")]
    pub input_dim: u64,
    #[prost(uint64, tag = "2")]
    pub output_channels: u64,
    #[prost(bool, tag = "10")]
    pub has_bias: bool,
    /// `[outputChannels, inputDim]`.
    #[prost(message, optional, boxed, tag = "20")]
    pub weights: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "21")]
    pub bias: Option<Box<WeightParams>>,
}

/// Embedding lookup; the vectors replace a trailing axis of 1.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EmbeddingNd {
    #[prost(uint64, tag = "1")]
    pub vocab_size: u64,
    #[prost(uint64, tag = "2")]
    pub embedding_size: u64,
    #[prost(bool, tag = "3")]
    pub has_bias: bool,
    /// `[embeddingSize, vocabSize]`.
    #[prost(message, optional, boxed, tag = "20")]
    pub weights: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "21")]
    pub bias: Option<Box<WeightParams>>,
}

/// Product of two inputs, or of one with weights.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchedMatMul {
    #[prost(bool, tag = "1")]
    pub transpose_a: bool,
    #[prost(bool, tag = "2")]
    pub transpose_b: bool,
    /// Rows of the weights.
    #[prost(uint64, tag = "5")]
    pub weight_matrix_first_dimension: u64,
    /// Columns of the weights.
    #[prost(uint64, tag = "6")]
    pub weight_matrix_second_dimension: u64,
    #[prost(bool, tag = "7")]
    pub has_bias: bool,
    /// Column-major.
    #[prost(message, optional, boxed, tag = "8")]
    pub weights: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "9")]
    pub bias: Option<Box<WeightParams>>,
    /// Quantizes the input to 8 bits at run time; weights are i8.
    #[prost(bool, tag = "10")]
    pub int8_dynamic_quantize: bool,
}
