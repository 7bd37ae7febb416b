//! `classify`.
//!
//! Semantics after the reference documentation of coremltools' `classify` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
