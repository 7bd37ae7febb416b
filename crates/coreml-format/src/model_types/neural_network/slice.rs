//! Slicing, concatenation and splitting.

use super::convolution::BorderAmounts;

/// Crops height and width: by border amounts, or to the size of a second input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Crop {
    #[prost(message, optional, tag = "1")]
    pub crop_amounts: Option<BorderAmounts>,
    /// `[height, width]` of the upper left corner when cropping to a second input.
    #[prost(uint64, repeated, tag = "5")]
    pub offset: Vec<u64>,
}

/// A range of one axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Slice {
    #[prost(int64, tag = "1")]
    pub start_index: i64,
    /// Exclusive; negative counts from the end.
    #[prost(int64, tag = "2")]
    pub end_index: i64,
    #[prost(uint64, tag = "3")]
    pub stride: u64,
    /// A value of [`SliceAxis`].
    #[prost(int32, tag = "4")]
    pub axis: i32,
}

/// The axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SliceAxis {
    Channel = 0,
    Height = 1,
    Width = 2,
}

/// A range of each axis.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SliceStatic {
    #[prost(int64, repeated, tag = "1")]
    pub begin_ids: Vec<i64>,
    /// Ranges that start at the beginning; `begin_ids` is ignored.
    #[prost(bool, repeated, tag = "2")]
    pub begin_masks: Vec<bool>,
    #[prost(int64, repeated, tag = "3")]
    pub end_ids: Vec<i64>,
    /// Ranges that extend to the end; `end_ids` is ignored.
    #[prost(bool, repeated, tag = "4")]
    pub end_masks: Vec<bool>,
    #[prost(int64, repeated, tag = "5")]
    pub strides: Vec<i64>,
    /// Axes reduced to the element at the start of the range, and removed.
    #[prost(bool, repeated, tag = "6")]
    pub squeeze_masks: Vec<bool>,
}

/// A range of each axis; inputs replace these fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SliceDynamic {
    /// Ranges that start at the beginning; the input is ignored.
    #[prost(bool, repeated, tag = "2")]
    pub begin_masks: Vec<bool>,
    #[prost(int64, repeated, tag = "3")]
    pub end_ids: Vec<i64>,
    /// Ranges that extend to the end; `end_ids` is ignored.
    #[prost(bool, repeated, tag = "4")]
    pub end_masks: Vec<bool>,
    #[prost(int64, repeated, tag = "5")]
    pub strides: Vec<i64>,
    /// Axes reduced to the element at the start of the range, and removed.
    #[prost(bool, repeated, tag = "6")]
    pub squeeze_masks: Vec<bool>,
}

/// A range of fixed size whose start is the second input.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SliceBySize {
    #[prost(int64, tag = "2")]
    pub size: i64,
    #[prost(int64, tag = "3")]
    pub axis: i64,
}

/// Sliding windows along an axis, as a new axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SlidingWindows {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    #[prost(uint64, tag = "2")]
    pub window_size: u64,
    #[prost(uint64, tag = "3")]
    pub step: u64,
}

/// Concatenation along axis −3.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Concat {
    /// Along axis −5.
    #[prost(bool, tag = "100")]
    pub sequence_concat: bool,
}

/// Concatenation along an axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ConcatNd {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// Interleaves the elements of the inputs.
    #[prost(bool, tag = "2")]
    pub interleave: bool,
}

/// Stacks inputs of equal shape along a new axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Stack {
    #[prost(int64, tag = "1")]
    pub axis: i64,
}

/// Splits into equal parts along axis −3.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Split {
    #[prost(uint64, tag = "1")]
    pub n_outputs: u64,
}

/// Splits along an axis.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SplitNd {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// Number of equal parts, if no sizes are given.
    #[prost(uint64, tag = "2")]
    pub num_splits: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub split_sizes: Vec<u64>,
}
