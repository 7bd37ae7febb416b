//! Reads and writes Core ML model files: bytes to typed programs and back, no tensors.
//!
//! - [`program`]: the engine-neutral IR. [`description`]: what a model expects and returns.
//! - [`package`]: opens `.mlpackage`, `.mlmodel` and `.mlmodelc`; everything below in one call.
//! - [`spec`]: the protobuf specification. [`blob`]: weight files. [`mil_text`]: MIL text.
//! - [`verify`]: checks a program before anything runs it. [`write`]: builds packages.
//!
//! Nothing here allocates from an unchecked length: a hostile file costs memory in proportion to its
//! own size at most.

pub mod description;
pub mod dtype;
