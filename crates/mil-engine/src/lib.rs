//! Executes Core ML ML Programs on Candle tensors, on any platform.
//!
//! ```text
//! coreml_format Program ─▶ passes ─▶ plan ─▶ Executable ── predict(inputs, state) ─▶ outputs
//! ```
//!
//! - [`passes`]: rewrites of the IR: dead code, idioms fused, state updates made in place.
//! - [`plan`]: binds names to slots, resolves constants, builds one closure per operation.
//! - [`run`]: executes the plan, within [`Limits`]; [`state`]: buffers that live between predictions.
//! - `budget`: the memory and work of a prediction, counted before they are used.
//! - [`convert`]: tensors of callers as values of the declared types.
//! - [`ops`]: the table of operations, one family per file.
//! - [`value`], [`weight`]: what flows between operations; weights stay compressed.
//! - [`profile`]: time per operation, on request.

mod budget;
pub mod build;
pub mod convert;
mod declared;
pub mod error;
pub mod executable;
mod layout;
mod literal;
mod machine;
pub mod ops;
pub mod passes;
pub mod plan;
pub mod profile;
mod rearrange;
mod reuse;
pub mod run;
pub mod state;
pub mod value;
pub mod weight;

/// What predictions take and return.
pub use coreml_values::{DictionaryKey, FeatureValue};
pub use error::{EngineError, OpError};
pub use executable::{Executable, Options};
pub use run::Limits;
pub use state::State;
