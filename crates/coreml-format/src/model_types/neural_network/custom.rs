//! Layers implemented in application code.

use std::collections::BTreeMap;

use super::weights::WeightParams;

/// A layer implemented by a class of the application.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CustomLayer {
    #[prost(string, tag = "10")]
    pub class_name: String,
    #[prost(message, repeated, tag = "20")]
    pub weights: Vec<WeightParams>,
    #[prost(btree_map = "string, message", tag = "30")]
    pub parameters: BTreeMap<String, CustomLayerParameter>,
    #[prost(string, tag = "40")]
    pub description: String,
}

/// A parameter passed to the class.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CustomLayerParameter {
    #[prost(oneof = "CustomLayerValue", tags = "10, 20, 30, 40, 50")]
    pub value: Option<CustomLayerValue>,
}

/// Values of parameters by type.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum CustomLayerValue {
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
}
