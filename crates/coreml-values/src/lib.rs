//! What Core ML models take and return, the same for every engine.
//!
//! - [`FeatureValue`]: one input or output. [`DictionaryKey`]: a key of a dictionary.
//! - [`number`]: elements of tensors as other kinds of numbers, without changing what they say.

mod feature;
pub mod number;

pub use feature::{DictionaryKey, FeatureValue};
