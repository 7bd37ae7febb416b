//! Inputs and outputs of Core ML models, the same for every engine.
//!
//! - [`FeatureValue`]: one input or output. [`DictionaryKey`]: a key of a dictionary.
//! - [`lent`]: tensors over memory of others.
//! - [`number`]: value-preserving conversion between tensor elements and numbers.

mod feature;
pub mod lent;
pub mod number;

pub use feature::{DictionaryKey, FeatureValue};
