//! `WordTagger` of the NaturalLanguage framework.

use prost::bytes::Bytes;

use super::data_structures::StringVector;

/// A word tagger whose parameters are private to the framework.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WordTagger {
    #[prost(uint32, tag = "1")]
    pub revision: u32,
    /// A BCP 47 tag.
    #[prost(string, tag = "10")]
    pub language: String,
    #[prost(string, tag = "20")]
    pub tokens_output_feature_name: String,
    #[prost(string, tag = "21")]
    pub token_tags_output_feature_name: String,
    #[prost(string, tag = "22")]
    pub token_locations_output_feature_name: String,
    #[prost(string, tag = "23")]
    pub token_lengths_output_feature_name: String,
    /// Private to the framework.
    #[prost(bytes = "bytes", tag = "100")]
    pub model_parameter_data: Bytes,
    #[prost(message, optional, tag = "200")]
    pub string_tags: Option<StringVector>,
}
