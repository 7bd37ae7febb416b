//! Convolutions in one, two and three dimensions.
//!
//! Semantics after the reference documentation of coremltools' `conv` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
