//! Looks into Core ML models without running them.
//!
//! - [`picture`]: the graph of a model as SVG: operations, weights and their compression, layers folded where they repeat.
//! - [`ane`]: for each operation, whether Apple's Neural Engine likely runs it, and why not.
//!
//! Both work on the typed program of [`coreml_format`]; no engine and no tensor library is involved. A hostile model
//! costs work in proportion to its size, and pictures have an upper bound.

pub mod ane;
mod constants;
mod graph;
mod layers;
mod layout;
mod parallel;
pub mod picture;
mod svg;

pub use svg::escape;
