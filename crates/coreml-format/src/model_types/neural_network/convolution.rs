//! Convolutions, and padding types shared by several chapters.

use super::weights::WeightParams;

/// Convolution over the last two axes, or its transpose.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Convolution {
    #[prost(uint64, tag = "1")]
    pub output_channels: u64,
    /// Input channels per group.
    #[prost(uint64, tag = "2")]
    pub kernel_channels: u64,
    /// 0 means 1.
    #[prost(uint64, tag = "10")]
    pub n_groups: u64,
    /// `[height, width]`; default `[3, 3]`.
    #[prost(uint64, repeated, tag = "20")]
    pub kernel_size: Vec<u64>,
    /// `[height, width]`; default `[1, 1]`.
    #[prost(uint64, repeated, tag = "30")]
    pub stride: Vec<u64>,
    /// `[height, width]`; default `[1, 1]`; ignored by transposed convolutions.
    #[prost(uint64, repeated, tag = "40")]
    pub dilation_factor: Vec<u64>,
    #[prost(oneof = "ConvolutionPadding", tags = "50, 51")]
    pub padding: Option<ConvolutionPadding>,
    /// A transposed convolution.
    #[prost(bool, tag = "60")]
    pub is_deconvolution: bool,
    #[prost(bool, tag = "70")]
    pub has_bias: bool,
    /// `[out, in / groups, height, width]`, transposed `[in, out / groups, height, width]`; replaced by a second input.
    #[prost(message, optional, boxed, tag = "90")]
    pub weights: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "91")]
    pub bias: Option<Box<WeightParams>>,
    /// `[height, width]` of the result of a transposed convolution.
    #[prost(uint64, repeated, tag = "100")]
    pub output_shape: Vec<u64>,
}

/// Padding of a convolution.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ConvolutionPadding {
    #[prost(message, tag = "50")]
    Valid(ValidPadding),
    #[prost(message, tag = "51")]
    Same(SamePadding),
}

/// Padding by given amounts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidPadding {
    #[prost(message, optional, tag = "1")]
    pub padding_amounts: Option<BorderAmounts>,
}

/// Amounts per axis.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BorderAmounts {
    /// Height first, then width.
    #[prost(message, repeated, tag = "10")]
    pub border_amounts: Vec<EdgeSizes>,
}

/// Amounts at the start and end of an axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct EdgeSizes {
    #[prost(uint64, tag = "1")]
    pub start_edge_size: u64,
    #[prost(uint64, tag = "2")]
    pub end_edge_size: u64,
}

/// Padding such that the output extent is ⌈input / stride⌉.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SamePadding {
    /// A value of [`SamePaddingMode`].
    #[prost(int32, tag = "1")]
    pub asymmetry_mode: i32,
}

/// Side with the larger half of an odd amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SamePaddingMode {
    /// At the end.
    BottomRightHeavy = 0,
    /// At the start.
    TopLeftHeavy = 1,
}

/// Convolution over the last three axes, or its transpose.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Convolution3d {
    #[prost(int32, tag = "1")]
    pub output_channels: i32,
    #[prost(int32, tag = "2")]
    pub input_channels: i32,
    #[prost(int32, tag = "10")]
    pub n_groups: i32,
    #[prost(int32, tag = "20")]
    pub kernel_depth: i32,
    #[prost(int32, tag = "21")]
    pub kernel_height: i32,
    #[prost(int32, tag = "22")]
    pub kernel_width: i32,
    #[prost(int32, tag = "31")]
    pub stride_depth: i32,
    #[prost(int32, tag = "32")]
    pub stride_height: i32,
    #[prost(int32, tag = "33")]
    pub stride_width: i32,
    #[prost(int32, tag = "40")]
    pub dilation_depth: i32,
    #[prost(int32, tag = "41")]
    pub dilation_height: i32,
    #[prost(int32, tag = "42")]
    pub dilation_width: i32,
    #[prost(bool, tag = "50")]
    pub has_bias: bool,
    /// `[out, in / groups, depth, height, width]`.
    #[prost(message, optional, boxed, tag = "60")]
    pub weights: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "61")]
    pub bias: Option<Box<WeightParams>>,
    /// A value of [`Convolution3dPadding`].
    #[prost(int32, tag = "70")]
    pub padding_type: i32,
    #[prost(int32, tag = "80")]
    pub custom_padding_front: i32,
    #[prost(int32, tag = "81")]
    pub custom_padding_back: i32,
    #[prost(int32, tag = "82")]
    pub custom_padding_top: i32,
    #[prost(int32, tag = "83")]
    pub custom_padding_bottom: i32,
    #[prost(int32, tag = "84")]
    pub custom_padding_left: i32,
    #[prost(int32, tag = "85")]
    pub custom_padding_right: i32,
    /// A transposed convolution.
    #[prost(bool, tag = "86")]
    pub is_deconvolution: bool,
    /// `[depth, height, width]` of the result of a transposed convolution.
    #[prost(uint64, repeated, tag = "87")]
    pub output_shape: Vec<u64>,
}

/// Padding of a three-dimensional convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Convolution3dPadding {
    /// The amounts in the `custom_padding_…` fields.
    Custom = 0,
    Valid = 1,
    Same = 2,
}
