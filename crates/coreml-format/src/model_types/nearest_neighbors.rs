//! `KNearestNeighborsClassifier`: majority vote of the nearest samples.

use super::data_structures::{ClassLabels, Empty, FloatVector, Int64Parameter};

/// Majority vote of the nearest samples.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KNearestNeighborsClassifier {
    #[prost(message, optional, tag = "1")]
    pub nearest_neighbors_index: Option<NearestNeighborsIndex>,
    #[prost(message, optional, tag = "3")]
    pub number_of_neighbors: Option<Int64Parameter>,
    /// One label per sample, not per class.
    #[prost(oneof = "ClassLabels", tags = "100, 101")]
    pub class_labels: Option<ClassLabels>,
    /// Result of a model without samples.
    #[prost(oneof = "DefaultClassLabel", tags = "110, 111")]
    pub default_class_label: Option<DefaultClassLabel>,
    #[prost(oneof = "WeightingScheme", tags = "200, 210")]
    pub weighting_scheme: Option<WeightingScheme>,
}

/// Result of a model without samples.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DefaultClassLabel {
    #[prost(string, tag = "110")]
    String(String),
    #[prost(int64, tag = "111")]
    Int64(i64),
}

/// Weight of a neighbor's vote.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum WeightingScheme {
    /// 1.
    #[prost(message, tag = "200")]
    Uniform(Empty),
    /// 1 / distance.
    #[prost(message, tag = "210")]
    InverseDistance(Empty),
}

/// Samples and their search structure.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NearestNeighborsIndex {
    /// Length of a sample.
    #[prost(int32, tag = "1")]
    pub number_of_dimensions: i32,
    #[prost(message, repeated, tag = "2")]
    pub float_samples: Vec<FloatVector>,
    #[prost(oneof = "IndexType", tags = "100, 110")]
    pub index_type: Option<IndexType>,
    #[prost(message, optional, tag = "200")]
    pub squared_euclidean_distance: Option<Empty>,
}

/// Search structure; results do not depend on it.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum IndexType {
    #[prost(message, tag = "100")]
    Linear(Empty),
    #[prost(message, tag = "110")]
    SingleKdTree(SingleKdTreeIndex),
}

/// Parameters of a k-d tree.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SingleKdTreeIndex {
    /// Maximum number of samples in a leaf.
    #[prost(int32, tag = "1")]
    pub leaf_size: i32,
}
