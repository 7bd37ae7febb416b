//! `Pipeline`, `PipelineClassifier`, `PipelineRegressor`: models run in sequence.

use prost::bytes::Bytes;

/// A sequence of models. Each takes its inputs by name from the pipeline's inputs and the outputs of earlier models.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pipeline {
    /// Serialized `Model` messages, in execution order.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub models: Vec<Bytes>,
    /// Names of the models; older files have none.
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
}

/// A pipeline whose last model is a classifier.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PipelineClassifier {
    #[prost(message, optional, tag = "1")]
    pub pipeline: Option<Pipeline>,
}

/// A pipeline whose last model is a regressor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PipelineRegressor {
    #[prost(message, optional, tag = "1")]
    pub pipeline: Option<Pipeline>,
}
