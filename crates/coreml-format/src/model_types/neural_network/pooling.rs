//! Pooling over two or three axes.

use super::convolution::{SamePadding, ValidPadding};

/// Pooling over the last two axes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pooling {
    /// A value of [`PoolingType`].
    #[prost(int32, tag = "1")]
    pub ty: i32,
    /// `[height, width]`; default `[3, 3]`.
    #[prost(uint64, repeated, tag = "10")]
    pub kernel_size: Vec<u64>,
    /// `[height, width]`; default `[1, 1]`.
    #[prost(uint64, repeated, tag = "20")]
    pub stride: Vec<u64>,
    #[prost(oneof = "PoolingPadding", tags = "30, 31, 32")]
    pub padding: Option<PoolingPadding>,
    /// Excludes padding from averages.
    #[prost(bool, tag = "50")]
    pub avg_pool_exclude_padding: bool,
    /// Pools over the whole height and width; the kernel size is ignored.
    #[prost(bool, tag = "60")]
    pub global_pooling: bool,
}

/// Padding of a pooling layer.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PoolingPadding {
    #[prost(message, tag = "30")]
    Valid(ValidPadding),
    #[prost(message, tag = "31")]
    Same(SamePadding),
    /// Symmetric padding with partial windows at the end, as in Caffe.
    #[prost(message, tag = "32")]
    IncludeLastPixel(ValidCompletePadding),
}

/// Reduction of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PoolingType {
    Max = 0,
    Average = 1,
    /// Square root of the sum of squares.
    L2 = 2,
}

/// Symmetric padding.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidCompletePadding {
    /// `[height, width]`.
    #[prost(uint64, repeated, tag = "10")]
    pub padding_amounts: Vec<u64>,
}

/// Pooling over the last three axes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Pooling3d {
    /// A value of [`PoolingType3d`].
    #[prost(int32, tag = "1")]
    pub ty: i32,
    #[prost(int32, tag = "2")]
    pub kernel_depth: i32,
    #[prost(int32, tag = "3")]
    pub kernel_height: i32,
    #[prost(int32, tag = "4")]
    pub kernel_width: i32,
    #[prost(int32, tag = "5")]
    pub stride_depth: i32,
    #[prost(int32, tag = "6")]
    pub stride_height: i32,
    #[prost(int32, tag = "7")]
    pub stride_width: i32,
    #[prost(int32, tag = "8")]
    pub custom_padding_front: i32,
    #[prost(int32, tag = "9")]
    pub custom_padding_back: i32,
    #[prost(int32, tag = "10")]
    pub custom_padding_top: i32,
    #[prost(int32, tag = "11")]
    pub custom_padding_bottom: i32,
    #[prost(int32, tag = "12")]
    pub custom_padding_left: i32,
    #[prost(int32, tag = "13")]
    pub custom_padding_right: i32,
    /// Excludes padding from averages.
    #[prost(bool, tag = "14")]
    pub count_exclude_padding: bool,
    /// A value of [`Pooling3dPadding`].
    #[prost(int32, tag = "15")]
    pub padding_type: i32,
}

/// Reduction of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PoolingType3d {
    Max = 0,
    Average = 1,
}

/// Padding of three-dimensional pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Pooling3dPadding {
    /// The amounts in the `custom_padding_…` fields.
    Custom = 0,
    Valid = 1,
    Same = 2,
}

/// Pooling over the whole of the last three axes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GlobalPooling3d {
    /// A value of [`GlobalPoolingType3d`].
    #[prost(int32, tag = "1")]
    pub ty: i32,
}

/// Reduction of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum GlobalPoolingType3d {
    Max = 0,
    Average = 1,
}
