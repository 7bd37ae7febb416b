//! `TextClassifier` of the NaturalLanguage framework.

use prost::bytes::Bytes;

use super::data_structures::StringVector;

/// A text classifier whose parameters are private to the framework.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TextClassifier {
    #[prost(uint32, tag = "1")]
    pub revision: u32,
    /// A BCP 47 tag.
    #[prost(string, tag = "10")]
    pub language: String,
    /// Private to the framework.
    #[prost(bytes = "bytes", tag = "100")]
    pub model_parameter_data: Bytes,
    #[prost(message, optional, tag = "200")]
    pub string_class_labels: Option<StringVector>,
}
