//! Operations on whole tensors: concat, split, pad, sort, ….
//!
//! Semantics after the reference documentation of coremltools' `tensor_operation` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
