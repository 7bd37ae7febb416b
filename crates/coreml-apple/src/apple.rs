//! The half that talks to Core ML. Everything here is compiled on Apple platforms only.
//!
//! ```text
//! source ─▶ compile (cache) ─▶ configuration ─▶ MLModel ─▶ description
//!                                                  │
//! tensors ─▶ inputs (lent or copied) ─▶ prediction ┴▶ outputs (rows gathered) ─▶ tensors
//! ```
//!
//! - `model`: [`NativeModel`], predictions one by one and in batches. `future`: the same without blocking.
//! - `state`: [`NativeState`]. `plan`: where operations run. `devices`: what there is to run on.
//! - `features`, `results`, `array`: inputs, outputs, and the memory in them. `surface`, `pixel_buffer`: memory that the
//!   Neural Engine reads in place, images. `metal`: tensors in memory that is shared with the GPU.
//! - `description`, `configuration`, `compile`, `foundation`, `available`: one part of the framework each.
//!
//! # What makes the `unsafe` calls right
//! The bindings mark most of Core ML `unsafe` because its headers promise nothing about threads and arguments.
//! Three rules hold everywhere here, and the `SAFETY` lines refer to them:
//!
//! 1. *Arguments*: objects are made by this module with the types that the headers declare, and names are
//!    checked against the description before they are passed on.
//! 2. *Threads*: an `MLModel` is used by one thread at a time (a mutex), apart from the asynchronous requests,
//!    which Core ML documents as safe beside each other.
//! 3. *Availability*: API newer than macOS 13 and iOS 16 is called after `available::require` has said that the
//!    system has it.

mod array;
mod available;
mod compile;
mod configuration;
mod description;
mod devices;
mod features;
mod foundation;
mod future;
#[cfg(feature = "metal")]
pub(crate) mod metal;
mod model;
mod pixel_buffer;
mod plan;
mod results;
mod state;
mod surface;

pub use devices::devices;
pub use future::{Prediction, StatefulPrediction};
pub use model::NativeModel;
pub use state::NativeState;
