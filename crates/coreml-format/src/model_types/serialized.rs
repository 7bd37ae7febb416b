//! `SerializedModel`: a model of a type that the specification does not define.

use prost::bytes::Bytes;

/// A message of a type known only to its reader.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SerializedModel {
    /// Identifies the type.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// The serialized message.
    #[prost(bytes = "bytes", tag = "2")]
    pub model: Bytes,
}
