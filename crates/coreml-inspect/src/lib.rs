//! Inspects Core ML models without running them.
//!
//! - [`picture`]: the graph of a model as SVG: operations, weights and their compression, repeated layers folded.
//! - [`survey`]: operations and weights by number and size, class labels.
//! - [`ane`]: per operation, an estimate of its support by Apple's Neural Engine, with reasons.
//! - [`warnings`]: constants and conversions that end in NaN, infinity or wrapped indices.
//!
//! They work on the typed program of [`coreml_format`], without an engine or a tensor library. The cost is proportional
//! to the model's size, also for a hostile one, and pictures have an upper bound.

pub mod ane;
mod constants;
mod graph;
mod layers;
mod layout;
mod parallel;
pub mod picture;
pub mod survey;
mod svg;
pub mod warnings;

pub use svg::escape;
