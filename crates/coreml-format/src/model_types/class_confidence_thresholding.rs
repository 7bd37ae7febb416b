//! `ClassConfidenceThresholding`: precision and recall of a classifier by confidence threshold.

use super::data_structures::PrecisionRecallCurve;

/// One curve per class.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClassConfidenceThresholding {
    #[prost(message, repeated, tag = "100")]
    pub precision_recall_curves: Vec<PrecisionRecallCurve>,
}
