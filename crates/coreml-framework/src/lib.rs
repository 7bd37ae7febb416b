//! The native engine: Apple's Core ML framework with Candle tensors.
//!
//! On other platforms only the platform-neutral half is compiled, so that it is tested everywhere:
//!
//! - [`mod@array`], [`convert`], [`strided`], [`shape`]: element types, checked conversion, strided copies, shape
//!   constraints.
//! - [`pixels`], [`surface`]: images as tensors; arrays in memory that the Neural Engine reads in place.
//! - [`inputs`], [`lend`], [`alternate`]: tensors lent to the framework, and memory returned on another thread; outputs
//!   handed on to the next model.
//! - [`cache`]: compiled models on disk. [`completion`]: completion handlers as futures.
//! - [`options`], [`progress`], [`stdout`]: load options; progress and cancellation of a load; what it prints.
//! - [`values`], [`report`], [`error`]: values, device placement, errors.
//!
//! Apple platforms add `NativeModel` and `NativeState`, built on the framework.

pub mod alternate;
#[cfg(target_vendor = "apple")]
mod apple;
pub mod array;
pub mod cache;
pub mod completion;
pub mod convert;
pub mod error;
pub mod inputs;
pub mod lend;
pub mod options;
pub mod pixels;
pub mod progress;
pub mod report;
pub mod shape;
pub mod stdout;
pub mod strided;
pub mod surface;
pub mod values;

#[cfg(target_vendor = "apple")]
pub use apple::{Handing, NativeArray, NativeModel, NativeState, Prediction, StatefulPrediction, devices, system};
/// Inputs and outputs of predictions.
pub use coreml_values::{DictionaryKey, FeatureValue};
pub use error::NativeError;
pub use options::{ComputeUnits, Options};

/// Property-test settings. Miri is several hundred times slower, and has no file system to persist failures.
#[cfg(test)]
fn cases(count: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::with_cases(if cfg!(miri) { 6 } else { count });
    if cfg!(miri) { proptest::test_runner::Config { failure_persistence: None, ..config } } else { config }
}
