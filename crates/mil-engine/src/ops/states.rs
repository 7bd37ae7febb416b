//! Reading and writing states.
//!
//! Semantics after the reference documentation of coremltools' `states` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
