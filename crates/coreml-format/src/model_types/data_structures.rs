//! Vectors, maps, ranges, parameters and class labels shared by several model types.

use std::collections::BTreeMap;

/// A list of strings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringVector {
    #[prost(string, repeated, tag = "1")]
    pub vector: Vec<String>,
}

/// A list of integers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Int64Vector {
    #[prost(int64, repeated, tag = "1")]
    pub vector: Vec<i64>,
}

/// A list of single-precision numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FloatVector {
    #[prost(float, repeated, tag = "1")]
    pub vector: Vec<f32>,
}

/// A list of double-precision numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DoubleVector {
    #[prost(double, repeated, tag = "1")]
    pub vector: Vec<f64>,
}

/// Numbers by string.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringToDoubleMap {
    #[prost(btree_map = "string, double", tag = "1")]
    pub map: BTreeMap<String, f64>,
}

/// Numbers by integer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Int64ToDoubleMap {
    #[prost(btree_map = "int64, double", tag = "1")]
    pub map: BTreeMap<i64, f64>,
}

/// Integers by string.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringToInt64Map {
    #[prost(btree_map = "string, int64", tag = "1")]
    pub map: BTreeMap<String, i64>,
}

/// Strings by integer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Int64ToStringMap {
    #[prost(btree_map = "int64, string", tag = "1")]
    pub map: BTreeMap<i64, String>,
}

/// An interval of integers, both ends included.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Int64Range {
    #[prost(int64, tag = "1")]
    pub min_value: i64,
    #[prost(int64, tag = "2")]
    pub max_value: i64,
}

/// Allowed values of an integer parameter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Int64Set {
    #[prost(int64, repeated, tag = "1")]
    pub values: Vec<i64>,
}

/// An integer that can be set when the model is loaded or trained.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Int64Parameter {
    #[prost(int64, tag = "1")]
    pub default_value: i64,
    #[prost(oneof = "AllowedInt64", tags = "10, 11")]
    pub allowed_values: Option<AllowedInt64>,
}

/// Allowed values of an integer parameter.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AllowedInt64 {
    #[prost(message, tag = "10")]
    Range(Int64Range),
    #[prost(message, tag = "11")]
    Set(Int64Set),
}

/// A string that can be set when the model is loaded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringParameter {
    #[prost(string, tag = "1")]
    pub default_value: String,
}

/// Precision and recall of one class by confidence threshold, each a curve of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrecisionRecallCurve {
    #[prost(message, optional, tag = "1")]
    pub precision_values: Option<FloatVector>,
    /// Confidence threshold of each precision value.
    #[prost(message, optional, tag = "2")]
    pub precision_confidence_thresholds: Option<FloatVector>,
    #[prost(message, optional, tag = "3")]
    pub recall_values: Option<FloatVector>,
    /// Confidence threshold of each recall value.
    #[prost(message, optional, tag = "4")]
    pub recall_confidence_thresholds: Option<FloatVector>,
}

/// Labels of the classes, in the order of the scores.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ClassLabels {
    #[prost(message, tag = "100")]
    Strings(StringVector),
    #[prost(message, tag = "101")]
    Int64s(Int64Vector),
}

impl ClassLabels {
    /// Number of classes.
    pub fn count(&self) -> usize {
        match self {
            Self::Strings(all) => all.vector.len(),
            Self::Int64s(all) => all.vector.len(),
        }
    }
}

/// A message without fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}
