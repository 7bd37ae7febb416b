//! `OneHotEncoder`: categories as one-hot vectors.

use super::data_structures::{Int64Vector, StringVector};

/// Encodes the category as a one-hot vector, or as a dictionary with one entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OneHotEncoder {
    #[prost(oneof = "CategoryType", tags = "1, 2")]
    pub category_type: Option<CategoryType>,
    /// The output is a dictionary from the index to 1.
    #[prost(bool, tag = "10")]
    pub output_sparse: bool,
    /// A value of [`HandleUnknown`].
    #[prost(int32, tag = "11")]
    pub handle_unknown: i32,
}

/// The categories, in the order of the output.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum CategoryType {
    #[prost(message, tag = "1")]
    Strings(StringVector),
    #[prost(message, tag = "2")]
    Int64s(Int64Vector),
}

/// Treatment of a value that is not a category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum HandleUnknown {
    ErrorOnUnknown = 0,
    /// The output is all zero.
    IgnoreUnknown = 1,
}
