//! Reads and writes Core ML model files: bytes to typed programs and back, no tensors.
//!
//! - [`model_types`]: every model type of the specification, decoded. [`program`]: the engine-neutral IR.
//! - [`description`]: inputs and outputs of a model.
//! - [`model`]: an open model. [`package`]: opens `.mlpackage`, `.mlmodel` and `.mlmodelc`; everything below in one
//!   call.
//! - [`mod@file`]: opens regular files up to a size limit; all input is read through it. [`memory`]: folders in memory.
//! - [`spec`]: the protobuf specification. [`weights`], [`blob`]: weight files. [`dtype`]: element types.
//! - [`mil_text`]: parser and printer of the text form of programs in compiled models.
//! - [`mod@verify`]: structural validation of programs, applied to every opened model.
//! - [`mod@write`]: writes packages from programs and streamed weights.
//!
//! Nothing is allocated from an unchecked length: memory use is at most proportional to the file size.

pub mod bits;
pub mod blob;
mod compiled;
pub mod description;
pub mod dtype;
pub mod file;
pub mod foreign;
mod linked;
pub mod memory;
pub mod mil_text;
pub mod model;
pub mod model_types;
pub mod package;
pub mod program;
pub mod spec;
pub mod task;
pub mod verify;
pub mod weights;
pub mod write;
