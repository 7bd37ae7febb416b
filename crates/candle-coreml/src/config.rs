//! Input and output names of a single model.

use serde::{Deserialize, Serialize};

/// Names and dimensions of a model, for callers that pass inputs by position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Input names, in the order in which tensors are passed. Empty: the model's own order.
    pub input_names: Vec<String>,
    /// Name of the output that `forward` returns. Empty: the model's first output.
    pub output_name: String,
    /// Maximum sequence length.
    pub max_sequence_length: usize,
    /// Vocabulary size; 0 if the model has none.
    pub vocab_size: usize,
    /// Name of the architecture; informational.
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
