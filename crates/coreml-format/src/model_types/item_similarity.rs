//! `ItemSimilarityRecommender`: items that resemble those that are given.

use super::data_structures::{Int64Vector, StringVector};

/// Recommends items similar to the given ones.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ItemSimilarityRecommender {
    /// Items that have similar ones, in the numbering of the model.
    #[prost(message, repeated, tag = "1")]
    pub item_item_similarities: Vec<SimilarItems>,
    /// Names of the items, by number.
    #[prost(message, optional, tag = "2")]
    pub item_string_ids: Option<StringVector>,
    /// Integers that stand for the items, by number.
    #[prost(message, optional, tag = "3")]
    pub item_int64_ids: Option<Int64Vector>,
    /// Input: given items and their scores.
    #[prost(string, tag = "10")]
    pub item_input_feature_name: String,
    /// Input: number of items to return.
    #[prost(string, tag = "11")]
    pub num_recommendations_input_feature_name: String,
    /// Input: the only items to choose from.
    #[prost(string, tag = "12")]
    pub item_restriction_input_feature_name: String,
    /// Input: items never to return, by default those that are given.
    #[prost(string, tag = "13")]
    pub item_exclusion_input_feature_name: String,
    /// Output: items, best first.
    #[prost(string, tag = "20")]
    pub recommended_item_list_output_feature_name: String,
    /// Output: their scores.
    #[prost(string, tag = "21")]
    pub recommended_item_score_output_feature_name: String,
}

/// The items that resemble one item.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SimilarItems {
    #[prost(uint64, tag = "1")]
    pub item_id: u64,
    #[prost(message, repeated, tag = "2")]
    pub similar_item_list: Vec<ConnectedItem>,
    /// Subtracted from a given score of this item.
    #[prost(double, tag = "3")]
    pub item_score_adjustment: f64,
}

/// A similar item.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ConnectedItem {
    #[prost(uint64, tag = "1")]
    pub item_id: u64,
    #[prost(double, tag = "2")]
    pub similarity_score: f64,
}
