//! Branches, loops and ranges. Nested networks share the blobs of their parent.

use crate::model_types::neural_network::NeuralNetwork;

/// Runs one of two networks, chosen by the input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Branch {
    /// Runs if |x| > 10⁻⁶.
    #[prost(message, optional, boxed, tag = "1")]
    pub if_branch: Option<Box<NeuralNetwork>>,
    /// Runs otherwise.
    #[prost(message, optional, boxed, tag = "2")]
    pub else_branch: Option<Box<NeuralNetwork>>,
}

/// Runs a network repeatedly.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Loop {
    /// Overridden by an input.
    #[prost(uint64, tag = "1")]
    pub max_loop_iterations: u64,
    /// Blob that ends the loop when it becomes 0.
    #[prost(string, tag = "2")]
    pub condition_var: String,
    /// Runs before each iteration and writes the condition.
    #[prost(message, optional, boxed, tag = "3")]
    pub condition_network: Option<Box<NeuralNetwork>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub body_network: Option<Box<NeuralNetwork>>,
}

/// Equally spaced numbers; the end is excluded.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RangeStatic {
    #[prost(float, tag = "1")]
    pub end_value: f32,
    #[prost(float, tag = "2")]
    pub start_value: f32,
    #[prost(float, tag = "3")]
    pub step_size_value: f32,
}

/// Equally spaced numbers; end, start and step are inputs.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RangeDynamic {
    #[prost(float, tag = "2")]
    pub start_value: f32,
    #[prost(float, tag = "3")]
    pub step_size_value: f32,
}
