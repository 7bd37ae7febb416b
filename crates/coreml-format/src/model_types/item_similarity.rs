//! `ItemSimilarityRecommender`: recommends items similar to given ones.

use super::data_structures::{Int64Vector, StringVector};

/// Recommends items similar to the given ones.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ItemSimilarityRecommender {
    /// Items that have similar ones, by the model's item numbers.
    #[prost(message, repeated, tag = "1")]
    pub item_item_similarities: Vec<SimilarItems>,
    /// Names of the items, by number.
    #[prost(message, optional, tag = "2")]
    pub item_string_ids: Option<StringVector>,
    /// Integer ids of the items, by number.
    #[prost(message, optional, tag = "3")]
    pub item_int64_ids: Option<Int64Vector>,
    /// Input: given items and their scores.
    #[prost(string, tag = "10")]
    pub item_input_feature_name: String,
    /// Input: number of items to return.
    #[prost(string, tag = "11")]
    pub num_recommendations_input_feature_name: String,
    /// Input: restricts the candidates to these items.
    #[prost(string, tag = "12")]
    pub item_restriction_input_feature_name: String,
    /// Input: items to exclude from the result; by default the given ones.
    #[prost(string, tag = "13")]
    pub item_exclusion_input_feature_name: String,
    /// Output: items, best first.
    #[prost(string, tag = "20")]
    pub recommended_item_list_output_feature_name: String,
    /// Output: their scores.
    #[prost(string, tag = "21")]
    pub recommended_item_score_output_feature_name: String,
}

/// Similar items of one item.
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
