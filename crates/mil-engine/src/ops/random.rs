//! Random numbers.
//!
//! Semantics after the reference documentation of coremltools' `random` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
