//! The Core ML half of the crate, compiled on Apple platforms only.
//!
//! ```text
//! source ─▶ compile (cache) ─▶ configuration ─▶ MLModel ─▶ description
//!                                                  │
//! tensors ─▶ inputs (lent or copied) ─▶ prediction ┴▶ outputs (rows gathered) ─▶ tensors
//! ```
//!
//! - `model`: [`NativeModel`], single and batch predictions. `future`: the same without blocking.
//! - `memory`: models from memory. `exception`: exceptions as errors.
//! - `state`: [`NativeState`]. `plan`: device placement of operations. `devices`: available processors.
//! - `features`, `results`, `array`: inputs, outputs, and their memory. `handed`: outputs that stay in it. `surface`, `pixel_buffer`: images, and memory
//!   that the Neural Engine reads in place. `metal`: tensors in memory shared with the GPU.
//! - `description`, `configuration`, `compile`, `foundation`, `available`: one part of the framework each.
//!
//! # Soundness of the `unsafe` calls
//! The bindings mark most of Core ML `unsafe` because its headers promise nothing about threads and arguments.
//! Three rules hold throughout; the `SAFETY` comments refer to them:
//!
//! 1. *Arguments*: this module creates objects with the types that the headers declare, and checks names
//!    against the description before passing them on.
//! 2. *Threads*: an `MLModel` is used by one thread at a time (a mutex), except for asynchronous requests,
//!    which Core ML documents as safe to run concurrently.
//! 3. *Availability*: API newer than macOS 13 and iOS 16 is called only after `available::require` has confirmed
//!    that the system has it.

mod array;
mod available;
mod compile;
mod configuration;
mod description;
mod devices;
mod exception;
mod features;
mod foundation;
mod future;
mod handed;
mod memory;
#[cfg(feature = "metal")]
pub(crate) mod metal;
mod model;
mod pixel_buffer;
mod plan;
mod results;
mod state;
mod surface;

pub use devices::devices;
pub use foundation::system;
pub use future::{Prediction, StatefulPrediction};
pub use handed::{Handing, NativeArray};
pub use model::NativeModel;
pub use state::NativeState;
