//! `Imputer`: replaces missing values.

use super::data_structures::{DoubleVector, Int64ToDoubleMap, Int64Vector, StringToDoubleMap};

/// Replaces every value equal to a marker for "missing".
#[derive(Clone, PartialEq, prost::Message)]
pub struct Imputer {
    #[prost(oneof = "ImputedValue", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub imputed_value: Option<ImputedValue>,
    #[prost(oneof = "ReplaceValue", tags = "11, 12, 13")]
    pub replace_value: Option<ReplaceValue>,
}

/// Replacement for missing values.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ImputedValue {
    #[prost(double, tag = "1")]
    Double(f64),
    #[prost(int64, tag = "2")]
    Int64(i64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(message, tag = "4")]
    Doubles(DoubleVector),
    #[prost(message, tag = "5")]
    Int64s(Int64Vector),
    #[prost(message, tag = "6")]
    ByString(StringToDoubleMap),
    #[prost(message, tag = "7")]
    ByInt64(Int64ToDoubleMap),
}

/// The marker for a missing value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ReplaceValue {
    #[prost(double, tag = "11")]
    Double(f64),
    #[prost(int64, tag = "12")]
    Int64(i64),
    #[prost(string, tag = "13")]
    String(String),
}
