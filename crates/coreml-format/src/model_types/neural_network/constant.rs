//! Constants and random numbers.

use super::weights::WeightParams;

/// A constant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LoadConstant {
    #[prost(uint64, repeated, tag = "1")]
    pub shape: Vec<u64>,
    #[prost(message, optional, boxed, tag = "2")]
    pub data: Option<Box<WeightParams>>,
}

/// A blob with all elements equal.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Fill {
    #[prost(float, tag = "1")]
    pub value: f32,
}

/// A blob with all elements equal, of a fixed shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FillStatic {
    #[prost(float, tag = "1")]
    pub value: f32,
    #[prost(uint64, repeated, tag = "2")]
    pub target_shape: Vec<u64>,
}

/// Normally distributed numbers.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RandomNormal {
    /// −1 draws a new seed each time.
    #[prost(int64, tag = "1")]
    pub seed: i64,
    #[prost(float, tag = "2")]
    pub mean: f32,
    #[prost(float, tag = "3")]
    pub std_dev: f32,
}

/// Normally distributed numbers of a fixed shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RandomNormalStatic {
    /// −1 draws a new seed each time.
    #[prost(int64, tag = "1")]
    pub seed: i64,
    #[prost(float, tag = "2")]
    pub mean: f32,
    #[prost(float, tag = "3")]
    pub std_dev: f32,
    #[prost(uint64, repeated, tag = "4")]
    pub output_shape: Vec<u64>,
}

/// Uniformly distributed numbers, maximum excluded.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RandomUniform {
    /// −1 draws a new seed each time.
    #[prost(int64, tag = "1")]
    pub seed: i64,
    #[prost(float, tag = "2")]
    pub min_val: f32,
    #[prost(float, tag = "3")]
    pub max_val: f32,
}

/// Uniformly distributed numbers of a fixed shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RandomUniformStatic {
    /// −1 draws a new seed each time.
    #[prost(int64, tag = "1")]
    pub seed: i64,
    #[prost(float, tag = "2")]
    pub min_val: f32,
    #[prost(float, tag = "3")]
    pub max_val: f32,
    #[prost(uint64, repeated, tag = "4")]
    pub output_shape: Vec<u64>,
}

/// Bernoulli-distributed zeros and ones.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RandomBernoulli {
    /// −1 draws a new seed each time.
    #[prost(int64, tag = "1")]
    pub seed: i64,
    /// Probability of a 1.
    #[prost(float, tag = "2")]
    pub prob: f32,
}

/// Bernoulli-distributed zeros and ones of a fixed shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RandomBernoulliStatic {
    /// −1 draws a new seed each time.
    #[prost(int64, tag = "1")]
    pub seed: i64,
    /// Probability of a 1.
    #[prost(float, tag = "2")]
    pub prob: f32,
    #[prost(uint64, repeated, tag = "3")]
    pub output_shape: Vec<u64>,
}

/// Samples from the categorical distribution of each row.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CategoricalDistribution {
    /// −1 draws a new seed each time.
    #[prost(int64, tag = "1")]
    pub seed: i64,
    #[prost(int64, tag = "2")]
    pub num_samples: i64,
    /// The input contains logits, not probabilities.
    #[prost(bool, tag = "3")]
    pub is_logits: bool,
    /// 0 means 10⁻¹⁰.
    #[prost(float, tag = "4")]
    pub eps: f32,
    /// 0 means 1.
    #[prost(float, tag = "5")]
    pub temperature: f32,
}
