//! `WordEmbedding` of the NaturalLanguage framework.

use prost::bytes::Bytes;

/// Word vectors that are private to the framework.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WordEmbedding {
    #[prost(uint32, tag = "1")]
    pub revision: u32,
    /// A BCP 47 tag.
    #[prost(string, tag = "10")]
    pub language: String,
    /// Private to the framework.
    #[prost(bytes = "bytes", tag = "100")]
    pub model_parameter_data: Bytes,
}
