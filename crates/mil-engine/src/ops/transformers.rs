//! `scaled_dot_product_attention`.
//!
//! Semantics after the reference documentation of coremltools' `transformers` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
