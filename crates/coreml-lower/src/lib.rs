//! Lowers models of every type to a [`Program`], the only form that the portable engine runs.
//!
//! ```text
//! coreml_format::Model ─▶ lower: a row of ROWS for each model type ─▶ verify ─▶ Program
//! ```
//!
//! - [`model_types`]: the table of model types, each with its lowering or none.
//! - `classic`: linear models, trees, support vectors, feature engineering.
//! - [`neural_network`]: networks, classifiers and regressors; [`layers`](neural_network::layers) says which layers run.
//! - [`custom`]: layers and models of classes that the caller supplies.
//! - [`refusals`]: types whose content is not in the file.
//! - `pipeline`: pipelines as one program: the operations of all parts, in order.
//!
//! Nothing is computed here: there are no tensors, and weights stay in the model.

use std::borrow::Cow;

use coreml_format::description::ModelDescription;
use coreml_format::model::Model;
use coreml_format::program::Program;
use coreml_format::verify::verify;

pub use absent::{Absent, absent};
pub use classic::presence;
pub use error::{LowerError, LowerErrorKind};

mod absent;
mod classic;
pub mod custom;
mod emit;
mod error;
pub mod model_types;
pub mod neural_network;
mod pipeline;
pub mod refusals;

/// Lowers a model to a program with the functions that its description names.
///
/// An ML Program is borrowed unchanged; it was verified when the model was opened. Lowered programs are verified here.
/// Weights are those of the model.
///
/// # Errors
/// [`LowerError`] if the type is not supported, or the parts of a pipeline do not fit together.
pub fn lower(model: &Model) -> Result<Cow<'_, Program>, LowerError> {
    lower_with(model, None)
}

/// [`lower`] with layers and models of classes that the caller supplies.
///
/// # Errors
/// Same as [`lower`], and if a class does not take what the model gives it.
pub fn lower_with<'m>(
    model: &'m Model,
    classes: Option<&'m dyn custom::CustomClasses>,
) -> Result<Cow<'m, Program>, LowerError> {
    lower_as(model, &model.description, classes)
}

/// [`lower_with`] for inputs and outputs that are described otherwise than in the file, as networks for arrays of other
/// shapes are ([`neural_network::ranked_shape`]).
///
/// # Errors
/// Same as [`lower_with`], and if the model does not fit the description.
pub fn lower_as<'m>(
    model: &'m Model,
    description: &'m ModelDescription,
    classes: Option<&'m dyn custom::CustomClasses>,
) -> Result<Cow<'m, Program>, LowerError> {
    let source = model_types::Source { classes, description, ..model.into() };
    let program = model_types::lower(source, "the model")?;
    if let Cow::Owned(made) = &program {
        verify(made)?;
    }
    Ok(program)
}
