//! Executes Core ML ML Programs on Candle tensors, on any platform.
//!
//! ```text
//! coreml_format Program ─▶ passes ─▶ plan ─▶ Executable ── predict(inputs, state) ─▶ outputs
//! ```
//!
//! Modules by floor; each uses only those below its own.
//!
//! - [`executable`]: the door.
//! - [`passes`]: rewrites of the IR. [`plan`]: binds names to slots, resolves constants, builds one closure per operation.
//! - [`ops`]: the table of operations, one family per file. [`op`]: a row of it. [`build`]: what an operation sees when it
//!   is built.
//! - `run`: executes a [`planned`] function in a [`frame`], within [`Limits`]; `liveness`: returns dead buffers to the pool.
//! - [`value`], [`weight`], [`mod@array`], [`state`]: what flows between operations, constants in their stored form, tensors,
//!   buffers that live between predictions. [`convert`]: tensors of callers as values of the declared types.
//! - `border`: doubles, strings and dictionaries of callers; results.
//! - `layout`, `rearrange`, `memory_order`: tensors in the order in which they lie in memory. [`shape`]: axes and sizes.
//! - `budget`: the memory and work of a prediction, counted before they are used.
//! - [`profile`]: time per operation, on request.

mod admit;
pub mod array;
pub mod backend;
mod batch;
mod border;
mod budget;
pub mod build;
pub mod convert;
mod declared;
mod decode;
pub mod error;
pub mod executable;
pub mod frame;
mod graph;
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
pub mod plan;
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

/// What predictions take and return.
pub use coreml_values::{DictionaryKey, FeatureValue};
pub use error::{EngineError, OpError};
pub use executable::{Executable, Options};
pub use limits::Limits;
/// Instruction sets that the kernels are chosen by.
pub use mil_kernels::isa;
pub use state::State;
