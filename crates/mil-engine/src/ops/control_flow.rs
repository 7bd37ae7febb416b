//! Control flow, lists and `select`.
//!
//! Semantics after the reference documentation of coremltools' `control_flow` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
