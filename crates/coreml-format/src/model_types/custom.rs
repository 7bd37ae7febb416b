//! `CustomModel`: a model implemented in application code.

use std::collections::BTreeMap;

use prost::bytes::Bytes;

/// A model implemented by a class of the application.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CustomModel {
    /// Name of the class.
    #[prost(string, tag = "10")]
    pub class_name: String,
    #[prost(btree_map = "string, message", tag = "30")]
    pub parameters: BTreeMap<String, CustomModelParameter>,
    #[prost(string, tag = "40")]
    pub description: String,
}

/// A parameter passed to the class.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CustomModelParameter {
    #[prost(oneof = "CustomModelValue", tags = "10, 20, 30, 40, 50, 60")]
    pub value: Option<CustomModelValue>,
}

/// Values of parameters by type.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum CustomModelValue {
    #[prost(double, tag = "10")]
    Double(f64),
    #[prost(string, tag = "20")]
    String(String),
    #[prost(int32, tag = "30")]
    Int32(i32),
    #[prost(int64, tag = "40")]
    Int64(i64),
    #[prost(bool, tag = "50")]
    Bool(bool),
    #[prost(bytes = "bytes", tag = "60")]
    Bytes(Bytes),
}
