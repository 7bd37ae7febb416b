//! `TreeEnsembleRegressor` and `TreeEnsembleClassifier`: decision trees, random forests, boosted trees.

use super::data_structures::ClassLabels;

/// Sums the values of the leaves reached, then applies a transform.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeEnsembleRegressor {
    #[prost(message, optional, tag = "1")]
    pub tree_ensemble: Option<TreeEnsembleParameters>,
    /// A value of [`TreeEnsembleTransform`].
    #[prost(int32, tag = "2")]
    pub post_evaluation_transform: i32,
}

/// Sums the values of the leaves reached, then converts the sum to class scores.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeEnsembleClassifier {
    #[prost(message, optional, tag = "1")]
    pub tree_ensemble: Option<TreeEnsembleParameters>,
    /// A value of [`TreeEnsembleTransform`].
    #[prost(int32, tag = "2")]
    pub post_evaluation_transform: i32,
    #[prost(oneof = "ClassLabels", tags = "100, 101")]
    pub class_labels: Option<ClassLabels>,
}

/// All trees as one list of nodes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeEnsembleParameters {
    /// Nodes of all trees, in any order.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<TreeNode>,
    /// Length of a prediction.
    #[prost(uint64, tag = "2")]
    pub num_prediction_dimensions: u64,
    /// Added to the sum of the leaves: one value per dimension.
    #[prost(double, repeated, tag = "3")]
    pub base_prediction_value: Vec<f64>,
}

/// A branch or a leaf.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeNode {
    /// Tree of the node.
    #[prost(uint64, tag = "1")]
    pub tree_id: u64,
    /// Number of the node in its tree.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// A value of [`NodeBehavior`].
    #[prost(int32, tag = "3")]
    pub node_behavior: i32,
    /// Index of the input element to compare.
    #[prost(uint64, tag = "10")]
    pub branch_feature_index: u64,
    /// Threshold of the comparison.
    #[prost(double, tag = "11")]
    pub branch_feature_value: f64,
    /// Next node if the comparison is true.
    #[prost(uint64, tag = "12")]
    pub true_child_node_id: u64,
    /// Next node if the comparison is false.
    #[prost(uint64, tag = "13")]
    pub false_child_node_id: u64,
    /// A missing value (NaN) follows the true branch.
    #[prost(bool, tag = "14")]
    pub missing_value_tracks_true_child: bool,
    /// Contribution of a leaf to the prediction.
    #[prost(message, repeated, tag = "20")]
    pub evaluation_info: Vec<EvaluationInfo>,
    /// Fraction of training samples that reached the node; no effect on results.
    #[prost(double, tag = "30")]
    pub relative_hit_rate: f64,
}

/// A value that a leaf adds to one dimension of the prediction.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct EvaluationInfo {
    #[prost(uint64, tag = "1")]
    pub evaluation_index: u64,
    #[prost(double, tag = "2")]
    pub evaluation_value: f64,
}

/// Comparison of a branch, input on the left; or a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum NodeBehavior {
    BranchOnValueLessThanEqual = 0,
    BranchOnValueLessThan = 1,
    BranchOnValueGreaterThanEqual = 2,
    BranchOnValueGreaterThan = 3,
    BranchOnValueEqual = 4,
    BranchOnValueNotEqual = 5,
    LeafNode = 6,
}

/// Transform of the sum of the leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TreeEnsembleTransform {
    NoTransform = 0,
    ClassificationSoftMax = 1,
    /// 1 / (1 + e⁻ˣ).
    RegressionLogistic = 2,
    /// Softmax with a score of 0 prepended.
    ClassificationSoftMaxWithZeroClassReference = 3,
}
