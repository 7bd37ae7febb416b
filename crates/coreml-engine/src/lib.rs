//! Executes Core ML ML Programs on Candle tensors, on any platform.
//!
//! ```text
//! coreml_format Program ─▶ passes ─▶ plan ─▶ Executable ── predict(inputs, state) ─▶ outputs
//! ```
//!
//! Modules by layer; each uses only those listed below its own.
//!
//! - [`executable`]: the entry point.
//! - [`passes`]: rewrites of the IR. `plan`: binds names to slots, folds constants, builds one closure per operation.
//! - [`ops`]: the operation table, one family per file. [`op`]: one row of it. [`build`]: the view of an operation at
//!   build time.
//! - `run`: executes a [`planned`] function in a [`frame`], within [`Limits`]; `liveness`: recycles dead buffers.
//! - [`value`], [`weight`], [`mod@array`], [`state`]: runtime values, constants in stored form, tensors, buffers that
//!   persist between predictions. [`convert`]: conversion of input tensors to the declared types.
//! - `border`: doubles, strings and dictionaries of callers; results. [`custom`]: layers and models that callers compute.
//! - `layout`, `rearrange`, `memory_order`: memory layouts of tensors. [`shape`]: axes and sizes.
//! - `budget`: memory and work of a prediction, charged before use.
//! - [`profile`]: optional time per operation.

mod admit;
pub mod array;
pub mod backend;
mod batch;
pub mod border;
mod budget;
pub mod build;
pub mod convert;
pub mod custom;
mod declared;
mod decode;
pub mod error;
pub mod executable;
pub mod frame;
mod graph;
mod kept;
mod layout;
mod limits;
mod literal;
mod liveness;
mod machine;
mod memory_order;
pub mod op;
pub mod ops;
mod pass;
pub mod passes;
mod plan;
pub mod planned;
pub mod profile;
mod rearrange;
mod recycle;
mod run;
pub mod shape;
pub mod state;
#[cfg(test)]
mod testing;
pub mod value;
pub mod weight;

/// Instruction sets for kernel selection.
pub use coreml_kernels::isa;
/// Threads of a prediction.
pub use coreml_kernels::parallel::threads;
/// Inputs and outputs of predictions.
pub use coreml_values::{DictionaryKey, FeatureValue};
pub use error::{EngineError, OpError};
pub use executable::{Executable, Options};
pub use limits::Limits;
pub use state::State;
