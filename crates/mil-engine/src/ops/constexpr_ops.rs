//! Constants in compressed form (opsets iOS16 and iOS18).
//!
//! Semantics after the reference documentation of coremltools' `constexpr_ops` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
