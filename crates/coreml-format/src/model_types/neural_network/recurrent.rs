//! Recurrent layers over `[sequence, batch, features, 1, 1]`.

use super::activation::Activation;
use super::weights::WeightParams;

/// yₜ = f(W xₜ + R yₜ₋₁ + b).
#[derive(Clone, PartialEq, prost::Message)]
pub struct SimpleRecurrent {
    #[prost(uint64, tag = "1")]
    pub input_vector_size: u64,
    #[prost(uint64, tag = "2")]
    pub output_vector_size: u64,
    #[prost(message, optional, tag = "10")]
    pub activation: Option<Activation>,
    /// Returns every step, not only the last.
    #[prost(bool, tag = "15")]
    pub sequence_output: bool,
    #[prost(bool, tag = "20")]
    pub has_bias_vector: bool,
    #[prost(message, optional, boxed, tag = "30")]
    pub weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "31")]
    pub recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "32")]
    pub bias_vector: Option<Box<WeightParams>>,
    /// Processes the sequence in reverse.
    #[prost(bool, tag = "100")]
    pub reverse_input: bool,
}

/// A gated recurrent unit (GRU).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Gru {
    #[prost(uint64, tag = "1")]
    pub input_vector_size: u64,
    #[prost(uint64, tag = "2")]
    pub output_vector_size: u64,
    /// For the gates and the output, in this order.
    #[prost(message, repeated, tag = "10")]
    pub activations: Vec<Activation>,
    /// Returns every step, not only the last.
    #[prost(bool, tag = "15")]
    pub sequence_output: bool,
    #[prost(bool, tag = "20")]
    pub has_bias_vectors: bool,
    #[prost(message, optional, boxed, tag = "30")]
    pub update_gate_weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "31")]
    pub reset_gate_weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "32")]
    pub output_gate_weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "50")]
    pub update_gate_recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "51")]
    pub reset_gate_recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "52")]
    pub output_gate_recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "70")]
    pub update_gate_bias_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "71")]
    pub reset_gate_bias_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "72")]
    pub output_gate_bias_vector: Option<Box<WeightParams>>,
    /// Processes the sequence in reverse.
    #[prost(bool, tag = "100")]
    pub reverse_input: bool,
}

/// A long short-term memory (LSTM).
#[derive(Clone, PartialEq, prost::Message)]
pub struct UniDirectionalLstm {
    #[prost(uint64, tag = "1")]
    pub input_vector_size: u64,
    #[prost(uint64, tag = "2")]
    pub output_vector_size: u64,
    /// For the gates, the block input and the output, in this order.
    #[prost(message, repeated, tag = "10")]
    pub activations: Vec<Activation>,
    #[prost(message, optional, tag = "15")]
    pub params: Option<LstmParams>,
    #[prost(message, optional, tag = "20")]
    pub weight_params: Option<LstmWeightParams>,
    /// Processes the sequence in reverse.
    #[prost(bool, tag = "100")]
    pub reverse_input: bool,
}

/// Two LSTMs; the second processes the sequence in reverse.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BiDirectionalLstm {
    #[prost(uint64, tag = "1")]
    pub input_vector_size: u64,
    #[prost(uint64, tag = "2")]
    pub output_vector_size: u64,
    /// For the gates, the block input and the output, in this order.
    #[prost(message, repeated, tag = "10")]
    pub activations_forward_lstm: Vec<Activation>,
    /// For the gates, the block input and the output, in this order.
    #[prost(message, repeated, tag = "11")]
    pub activations_backward_lstm: Vec<Activation>,
    #[prost(message, optional, tag = "15")]
    pub params: Option<LstmParams>,
    /// Forward, then backward.
    #[prost(message, repeated, tag = "20")]
    pub weight_params: Vec<LstmWeightParams>,
}

/// Options of an LSTM.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LstmParams {
    /// Returns every step, not only the last.
    #[prost(bool, tag = "10")]
    pub sequence_output: bool,
    #[prost(bool, tag = "20")]
    pub has_bias_vectors: bool,
    /// Adds 1 to the bias of the forget gate.
    #[prost(bool, tag = "30")]
    pub forget_bias: bool,
    #[prost(bool, tag = "40")]
    pub has_peephole_vectors: bool,
    /// Sets the forget gate to 1 − input gate.
    #[prost(bool, tag = "50")]
    pub coupled_input_and_forget_gate: bool,
    /// Clipping bound of the cell state; 0 means 50.
    #[prost(float, tag = "60")]
    pub cell_clip_threshold: f32,
}

/// Matrices and vectors of one direction.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LstmWeightParams {
    #[prost(message, optional, boxed, tag = "1")]
    pub input_gate_weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "2")]
    pub forget_gate_weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "3")]
    pub block_input_weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub output_gate_weight_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "20")]
    pub input_gate_recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "21")]
    pub forget_gate_recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "22")]
    pub block_input_recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "23")]
    pub output_gate_recursion_matrix: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "40")]
    pub input_gate_bias_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "41")]
    pub forget_gate_bias_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "42")]
    pub block_input_bias_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "43")]
    pub output_gate_bias_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "60")]
    pub input_gate_peephole_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "61")]
    pub forget_gate_peephole_vector: Option<Box<WeightParams>>,
    #[prost(message, optional, boxed, tag = "62")]
    pub output_gate_peephole_vector: Option<Box<WeightParams>>,
}
