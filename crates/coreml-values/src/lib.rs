//! Inputs and outputs of Core ML models, the same for every engine.
//!
//! - [`FeatureValue`]: one input or output. [`DictionaryKey`]: a key of a dictionary.
//! - [`number`]: value-preserving conversion between tensor elements and numbers.

mod feature;
pub mod number;

pub use feature::{DictionaryKey, FeatureValue};
