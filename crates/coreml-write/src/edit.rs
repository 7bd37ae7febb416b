//! Edits models that exist: weights, metadata, names, functions, pipelines. Every edit writes a new model, which appears
//! under its name when it is complete.

mod constants;
mod error;
mod functions;
mod model;
pub mod packed;
pub(crate) mod raw;
mod repack;
mod rewrite;
mod weights;

pub use constants::{Constants, Decoded, Stored, stored};
pub use error::{EditError, Result};
pub use functions::{Source, merge, pipeline, split};
pub(crate) use model::specification;
pub use model::{Changes, edit, edit_with};
pub use repack::Repack;
pub use rewrite::{Made, Make, Place, invalid, rewrite};
pub use weights::{Form, SMALLEST, Weight, decompress, deduplicate, extract, list, program, replace, total};
