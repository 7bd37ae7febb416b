//! `BayesianProbitRegressor`: a regressor on sums of Gaussians.

/// Weights with mean and variance for each value of each feature.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BayesianProbitRegressor {
    #[prost(uint32, tag = "1")]
    pub number_of_features: u32,
    #[prost(message, optional, tag = "2")]
    pub bias: Option<Gaussian>,
    #[prost(message, repeated, tag = "3")]
    pub features: Vec<FeatureWeight>,
    #[prost(string, tag = "10")]
    pub regression_input_feature_name: String,
    #[prost(string, tag = "11")]
    pub optimism_input_feature_name: String,
    #[prost(string, tag = "12")]
    pub sampling_scale_input_feature_name: String,
    #[prost(string, tag = "13")]
    pub sampling_truncation_input_feature_name: String,
    #[prost(string, tag = "20")]
    pub mean_output_feature_name: String,
    #[prost(string, tag = "21")]
    pub variance_output_feature_name: String,
    #[prost(string, tag = "22")]
    pub pessimistic_probability_output_feature_name: String,
    #[prost(string, tag = "23")]
    pub sampled_probability_output_feature_name: String,
}

/// A normal distribution.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Gaussian {
    #[prost(double, tag = "1")]
    pub mean: f64,
    /// 1 / variance.
    #[prost(double, tag = "2")]
    pub precision: f64,
}

/// Weights of one feature.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FeatureWeight {
    #[prost(uint32, tag = "1")]
    pub feature_id: u32,
    #[prost(message, repeated, tag = "2")]
    pub weights: Vec<FeatureValueWeight>,
}

/// The weight of a value of a feature.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct FeatureValueWeight {
    #[prost(uint32, tag = "1")]
    pub feature_value: u32,
    #[prost(message, optional, tag = "2")]
    pub feature_weight: Option<Gaussian>,
}
