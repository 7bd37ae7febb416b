//! Reads and writes Core ML model files: bytes to typed programs and back, no tensors.
//!
//! - [`model_types`]: every model type of the specification, decoded. [`program`]: the engine-neutral IR.
//! - [`description`]: what a model expects and returns.
//! - [`model`]: an open model. [`package`]: opens `.mlpackage`, `.mlmodel` and `.mlmodelc`; everything below in one call.
//! - [`mod@file`]: opens regular files, up to a size; everything that is read comes through it.
//! - [`spec`]: the protobuf specification. [`weights`], [`blob`]: weight files. [`dtype`]: element types.
//! - [`mil_text`]: the text form of programs in compiled models, read and written.
//! - [`mod@verify`]: whether a program hangs together; every model that is opened was checked.
//! - [`mod@write`]: packages from programs and streamed weights.
//!
//! Nothing here allocates from an unchecked length: a hostile file costs memory in proportion to its
//! own size at most.

pub mod blob;
mod compiled;
pub mod description;
pub mod dtype;
pub mod file;
pub mod mil_text;
pub mod model;
pub mod model_types;
pub mod package;
pub mod program;
pub mod spec;
pub mod verify;
pub mod weights;
pub mod write;
