//! Reductions along axes.
//!
//! Semantics after the reference documentation of coremltools' `reduction` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
