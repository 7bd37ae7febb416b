//! `CategoricalMapping`: strings to integers, or back.

use super::data_structures::{Int64ToStringMap, StringToInt64Map};

/// A table from categories to categories.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CategoricalMapping {
    #[prost(oneof = "Mapping", tags = "1, 2")]
    pub mapping: Option<Mapping>,
    /// Result for a value missing from the table; if absent, such a value is an error.
    #[prost(oneof = "ValueOnUnknown", tags = "101, 102")]
    pub value_on_unknown: Option<ValueOnUnknown>,
}

/// The table.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Mapping {
    #[prost(message, tag = "1")]
    StringToInt64(StringToInt64Map),
    #[prost(message, tag = "2")]
    Int64ToString(Int64ToStringMap),
}

/// Result for a value missing from the table.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ValueOnUnknown {
    #[prost(string, tag = "101")]
    String(String),
    #[prost(int64, tag = "102")]
    Int64(i64),
}
