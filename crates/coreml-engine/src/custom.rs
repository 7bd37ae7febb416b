//! Layers and models of classes that the caller supplies, as applications do for Core ML (`MLCustomLayer`, `MLCustomModel`).
//!
//! Lowering places them in programs by index into [`Options::custom`](crate::Options::custom).

use std::sync::Arc;

use candle_core::Tensor;
use coreml_values::FeatureValue;

/// Why a class of the caller fails.
pub type CustomFailure = Box<dyn std::error::Error + Send + Sync>;

/// A shape; `None` is an extent that is known only in a prediction.
pub type Extents = Vec<Option<usize>>;

/// A layer of a neural network.
///
/// Shapes are those of blobs: rank 5, `[sequence, batch, channels, height, width]`, in networks that map their inputs to
/// rank 5, and of any rank in others. Predictions may run on several threads at once.
pub trait CustomLayer: Send + Sync {
    /// Shapes of the outputs for shapes of the inputs, in the order of the layer.
    ///
    /// # Errors
    /// Inputs that the layer does not take; the model is then refused.
    fn output_shapes(&self, inputs: &[Extents]) -> Result<Vec<Extents>, CustomFailure>;

    /// Computes the outputs. Inputs are `F32` on the CPU, contiguous; outputs of other element types are converted to `F32`.
    ///
    /// # Errors
    /// A prediction fails with this error, and if an output has another shape than [`output_shapes`](Self::output_shapes) said.
    fn evaluate(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, CustomFailure>;
}

/// A model, alone or in a pipeline.
pub trait CustomModel: Send + Sync {
    /// Predicts. Inputs are those of the model's description, in its order, without optional ones that are not given: numbers,
    /// strings, sequences, dictionaries; arrays of floats as `F64`. Outputs by name, all those of the description.
    ///
    /// # Errors
    /// A prediction fails with this error, and if an output is missing, unknown or of another type than described.
    fn predict(&self, inputs: &[(&str, FeatureValue)]) -> Result<Vec<(String, FeatureValue)>, CustomFailure>;
}

/// A layer or a model of the caller.
#[derive(Clone)]
pub enum Custom {
    /// Of an `engine.custom_layer`.
    Layer(Arc<dyn CustomLayer>),
    /// Of an `engine.custom_model`.
    Model(Arc<dyn CustomModel>),
}

impl std::fmt::Debug for Custom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Layer(_) => "Layer",
            Self::Model(_) => "Model",
        })
    }
}
