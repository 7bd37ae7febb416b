//! Resizing, cropping and resampling of images.
//!
//! Semantics after the reference documentation of coremltools' `image_resizing` chapter.

use super::OpSpec;

pub(super) const OPS: &[OpSpec] = &[];
