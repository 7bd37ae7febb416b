//! Scatter and gather.
//!
//! Semantics after the reference documentation of coremltools' `scatter_gather` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
