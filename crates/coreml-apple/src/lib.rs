//! The native engine: Apple's Core ML framework with Candle tensors.
//!
//! On other platforms than Apple's only the neutral half is compiled, so that it is tested everywhere:
//!
//! - [`mod@array`], [`convert`], [`strided`], [`shape`]: element types, checked conversion, rows with strides,
//!   shape constraints.
//! - [`pixels`], [`surface`]: images as tensors; arrays in memory that the Neural Engine reads in place.
//! - [`inputs`], [`lend`]: tensors lent to the framework, and memory that comes back on another thread.
//! - [`cache`]: compiled models on disk. [`completion`]: completion handlers as futures.
//! - [`options`], [`values`], [`report`], [`error`]: how models are loaded, what they take and return, where they
//!   run, what goes wrong.
//!
//! On Apple's platforms there are `NativeModel` and `NativeState` besides, over the framework itself.

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
pub mod report;
pub mod shape;
pub mod strided;
pub mod surface;
pub mod values;

#[cfg(target_vendor = "apple")]
pub use apple::{NativeModel, NativeState, Prediction, StatefulPrediction, devices};
/// What predictions take and return.
pub use coreml_values::{DictionaryKey, FeatureValue};
pub use error::NativeError;
pub use options::{ComputeUnits, Options};

/// Settings of the property tests. Miri runs some hundred times slower, and has no files to keep failures in.
#[cfg(test)]
fn cases(count: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::with_cases(if cfg!(miri) { 6 } else { count });
    if cfg!(miri) { proptest::test_runner::Config { failure_persistence: None, ..config } } else { config }
}
