//! Drives Apple's Core ML framework; an empty shell on other platforms, but for its neutral logic.
//!
//! - [`strided`]: copies between dense buffers and the strided ones of an `MLMultiArray`.

pub mod strided;
