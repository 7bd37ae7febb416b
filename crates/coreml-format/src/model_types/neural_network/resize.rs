//! Padding and resampling.

use super::convolution::BorderAmounts;
use crate::model_types::data_structures::Empty;

/// Padding of height and width.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Padding {
    #[prost(oneof = "PaddingType", tags = "1, 2, 3")]
    pub padding: Option<PaddingType>,
    #[prost(message, optional, tag = "10")]
    pub padding_amounts: Option<BorderAmounts>,
}

/// Content of the padding.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum PaddingType {
    #[prost(message, tag = "1")]
    Constant(PaddingConstant),
    /// The mirrored blob, excluding its edge.
    #[prost(message, tag = "2")]
    Reflection(Empty),
    /// The edge.
    #[prost(message, tag = "3")]
    Replication(Empty),
}

/// A constant.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PaddingConstant {
    #[prost(float, tag = "1")]
    pub value: f32,
}

/// Padding of every axis with a constant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConstantPadding {
    #[prost(float, tag = "1")]
    pub value: f32,
    /// Before and after each axis; replaced by a second input.
    #[prost(uint64, repeated, tag = "2")]
    pub pad_amounts: Vec<u64>,
    /// A nonzero amount is the output extent, padded on that side.
    #[prost(bool, tag = "3")]
    pub pad_to_given_output_size_mode: bool,
}

/// Upsamples height and width.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Upsample {
    /// `[height, width]`.
    #[prost(uint64, repeated, tag = "1")]
    pub scaling_factor: Vec<u64>,
    /// A value of [`InterpolationMode`].
    #[prost(int32, tag = "5")]
    pub mode: i32,
    /// A value of [`LinearUpsampleMode`].
    #[prost(int32, tag = "6")]
    pub linear_upsample_mode: i32,
    /// `[height, width]`, if `scaling_factor` is absent.
    #[prost(float, repeated, tag = "7")]
    pub fractional_scaling_factor: Vec<f32>,
}

/// Interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum InterpolationMode {
    Nearest = 0,
    Bilinear = 1,
}

/// Grid of bilinear upsampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum LinearUpsampleMode {
    /// Spacing (X − X/N) / (N − 1).
    Default = 0,
    /// Spacing (X − 1) / (N − 1).
    AlignCornersTrue = 1,
    /// Point i at (i + ½) X/N − ½.
    AlignCornersFalse = 2,
}

/// Resizes height and width.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResizeBilinear {
    /// `[height, width]`.
    #[prost(uint64, repeated, tag = "1")]
    pub target_size: Vec<u64>,
    #[prost(message, optional, tag = "2")]
    pub mode: Option<SamplingMode>,
}

/// Sampling grid.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SamplingMode {
    /// A value of [`SamplingMethod`].
    #[prost(int32, tag = "1")]
    pub sampling_method: i32,
}

/// Positions of N sampling points over X elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SamplingMethod {
    /// Spread over 0 to X − 1.
    StrictAlignEndpoints = 0,
    /// The same, but a single point is centered.
    AlignEndpoints = 1,
    /// Spread over 0 to X − X/N.
    Upsample = 2,
    /// Centers of N equal bins.
    RoiAlign = 3,
}

/// Crops and resizes the boxes listed in the second input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CropResize {
    /// `[height, width]`.
    #[prost(uint64, repeated, tag = "1")]
    pub target_size: Vec<u64>,
    /// Coordinates are normalized to 0..1.
    #[prost(bool, tag = "2")]
    pub normalized_coordinates: bool,
    #[prost(message, optional, tag = "3")]
    pub mode: Option<SamplingMode>,
    #[prost(message, optional, tag = "4")]
    pub box_indices_mode: Option<BoxCoordinatesMode>,
    /// Scale factor of the coordinates.
    #[prost(float, tag = "5")]
    pub spatial_scale: f32,
}

/// Representation of boxes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct BoxCoordinatesMode {
    /// A value of [`BoxCoordinates`].
    #[prost(int32, tag = "1")]
    pub box_mode: i32,
}

/// Order of the coordinates of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum BoxCoordinates {
    CornersHeightFirst = 0,
    CornersWidthFirst = 1,
    CenterSizeHeightFirst = 2,
    CenterSizeWidthFirst = 3,
}
