//! Matrix products: `linear`, `matmul`, `einsum`.
//!
//! Semantics after the reference documentation of coremltools' `linear` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
