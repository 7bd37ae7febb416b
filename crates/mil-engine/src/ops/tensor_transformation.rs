//! Changes of shape and order: reshape, transpose, slice, ….
//!
//! Semantics after the reference documentation of coremltools' `tensor_transformation` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
