//! How a single model is fed.

use serde::{Deserialize, Serialize};

/// Names and sizes of a model, for callers that feed it by position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Names of the inputs, in the order in which tensors are given. Empty: the model's own order.
    pub input_names: Vec<String>,
    /// Name of the output that `forward` returns. Empty: the model's first.
    pub output_name: String,
    /// Longest sequence.
    pub max_sequence_length: usize,
    /// Size of the vocabulary; 0 when the model has none.
    pub vocab_size: usize,
    /// Free name of the architecture.
    pub model_type: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            input_names: Vec::new(),
            output_name: String::new(),
            max_sequence_length: 512,
            vocab_size: 0,
            model_type: "coreml".to_owned(),
        }
    }
}
