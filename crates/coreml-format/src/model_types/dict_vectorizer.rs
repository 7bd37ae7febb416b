//! `DictVectorizer`: dictionaries as vectors.

use super::data_structures::{Int64Vector, StringVector};

/// A vector with the value of each key, 0 for absent keys.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DictVectorizer {
    #[prost(oneof = "VectorizerKeys", tags = "1, 2")]
    pub keys: Option<VectorizerKeys>,
}

/// The key of each element.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum VectorizerKeys {
    #[prost(message, tag = "1")]
    Strings(StringVector),
    #[prost(message, tag = "2")]
    Int64s(Int64Vector),
}
