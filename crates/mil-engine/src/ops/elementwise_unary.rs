//! Elementwise functions of one tensor, casts included.
//!
//! Semantics after the reference documentation of coremltools' `elementwise_unary` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
