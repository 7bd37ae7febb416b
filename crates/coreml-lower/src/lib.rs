//! Turns models of every type into one [`Program`]: the only form that the portable engine runs.
//!
//! ```text
//! coreml_format::Model ─▶ lower: a row of ROWS for each model type ─▶ verify ─▶ Program
//! ```
//!
//! - [`model_types`]: the table of model types, each with its lowering or none.
//! - `classic`: linear models, trees, support vectors, feature engineering.
//! - `pipeline`: pipelines as one program: the operations of all parts, in order.
//!
//! Nothing here computes: there are no tensors, and weights stay where the model has them.

use std::borrow::Cow;

use coreml_format::model::Model;
use coreml_format::program::Program;
use coreml_format::verify::verify;

pub use error::{LowerError, LowerErrorKind};

mod classic;
mod error;
pub mod model_types;
mod pipeline;

/// The program that computes what a model computes, with the functions that its description names.
///
/// A program is borrowed as it is; it was verified when the model was opened. What lowering makes is verified here. Weights
/// are those of the model.
///
/// # Errors
/// [`LowerError`]: a type that can't be run, by its name; a pipeline whose parts do not fit together.
pub fn lower(model: &Model) -> Result<Cow<'_, Program>, LowerError> {
    let program = model_types::lower(model.into(), "the model")?;
    if let Cow::Owned(made) = &program {
        verify(made)?;
    }
    Ok(program)
}
