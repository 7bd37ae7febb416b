//! Indexed access to elements.

/// Slices of the first input at the indices in the second.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Gather {
    #[prost(int64, tag = "1")]
    pub axis: i64,
}

/// Elements at the indices in the second input, along an axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GatherAlongAxis {
    #[prost(int64, tag = "1")]
    pub axis: i64,
}

/// Copies the first input, with slices of the third at the indices in the second.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Scatter {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// A value of [`ScatterMode`].
    #[prost(int32, tag = "2")]
    pub mode: i32,
}

/// Copies the first input, with values of the third at the multi-indices in the second.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ScatterNd {
    /// A value of [`ScatterMode`].
    #[prost(int32, tag = "1")]
    pub mode: i32,
}

/// Copies the first input, with elements of the third at the indices in the second, along an axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ScatterAlongAxis {
    #[prost(int64, tag = "1")]
    pub axis: i64,
    /// A value of [`ScatterMode`].
    #[prost(int32, tag = "2")]
    pub mode: i32,
}

/// Combination of a written value with the existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ScatterMode {
    Update = 0,
    Add = 1,
    Sub = 2,
    Mul = 3,
    Div = 4,
    Max = 5,
    Min = 6,
}

/// One-hot vectors along a new axis.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct OneHot {
    /// Overridden by a second input.
    #[prost(uint64, tag = "1")]
    pub one_hot_vector_size: u64,
    #[prost(int64, tag = "2")]
    pub axis: i64,
    #[prost(float, tag = "3")]
    pub on_value: f32,
    #[prost(float, tag = "4")]
    pub off_value: f32,
}

/// Suppresses overlapping boxes; inputs override the first three fields.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct BoxSuppression {
    #[prost(float, tag = "1")]
    pub iou_threshold: f32,
    #[prost(float, tag = "2")]
    pub score_threshold: f32,
    #[prost(uint64, tag = "3")]
    pub max_boxes: u64,
    #[prost(bool, tag = "4")]
    pub per_class_suppression: bool,
}
