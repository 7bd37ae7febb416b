//! `SerializedModel`: a model of a type that the specification does not define.

use prost::bytes::Bytes;

/// A message whose type only its reader knows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SerializedModel {
    /// Names the type.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// The serialized message.
    #[prost(bytes = "bytes", tag = "2")]
    pub model: Bytes,
}
