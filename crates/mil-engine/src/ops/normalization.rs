//! Normalizations.
//!
//! Semantics after the reference documentation of coremltools' `normalization` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
