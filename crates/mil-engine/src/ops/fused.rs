//! Operations that only passes create; no program file contains them.
//!
//! Semantics after the reference documentation of coremltools' `fused` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
