//! `NonMaximumSuppression`: drops boxes that overlap better ones.

use super::data_structures::ClassLabels;

/// Drops boxes that overlap boxes of higher confidence.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NonMaximumSuppression {
    #[prost(message, optional, tag = "1")]
    pub pick_top: Option<PickTop>,
    #[prost(oneof = "ClassLabels", tags = "100, 101")]
    pub class_labels: Option<ClassLabels>,
    /// Minimum intersection over union for dropping a box.
    #[prost(double, tag = "110")]
    pub iou_threshold: f64,
    /// Boxes with lower confidence are dropped.
    #[prost(double, tag = "111")]
    pub confidence_threshold: f64,
    /// Input: confidences, `[boxes, classes]`.
    #[prost(string, tag = "200")]
    pub confidence_input_feature_name: String,
    /// Input: center x, center y, width and height, `[boxes, 4]`.
    #[prost(string, tag = "201")]
    pub coordinates_input_feature_name: String,
    /// Input, optional: replaces `iou_threshold`.
    #[prost(string, tag = "202")]
    pub iou_threshold_input_feature_name: String,
    /// Input, optional: replaces `confidence_threshold`.
    #[prost(string, tag = "203")]
    pub confidence_threshold_input_feature_name: String,
    #[prost(string, tag = "210")]
    pub confidence_output_feature_name: String,
    #[prost(string, tag = "211")]
    pub coordinates_output_feature_name: String,
}

/// Keeps the box with the highest confidence.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PickTop {
    /// Boxes only suppress boxes of their own class.
    #[prost(bool, tag = "1")]
    pub per_class: bool,
}
