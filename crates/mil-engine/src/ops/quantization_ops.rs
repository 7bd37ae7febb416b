//! `quantize` and `dequantize`.
//!
//! Semantics after the reference documentation of coremltools' `quantization_ops` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
