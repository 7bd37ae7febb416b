//! Pooling.
//!
//! Semantics after the reference documentation of coremltools' `pool` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
