//! Compresses the weights of ML Programs.
//!
//! - [`kmeans`]: tables of numbers with the least squared error. [`vectors`]: tables of vectors.
//! - [`quantize`]: integers per tensor, channel or block. [`prune`]: sparse weights.
//! - [`candidates`], [`trial`], [`choose`]: forms of single weights, measured, and the best within a number of bits.
//! - [`compress`]: a package with compressed weights, and what each layer lost.

mod choose;
mod encode;
pub mod kmeans;
mod package;
mod parallel;
pub mod prune;
pub mod quantize;
mod scheme;
mod trial;
pub mod vectors;

pub use choose::{Measure, Sensitivity, choose};
pub use package::{LayerReport, Report, compress};
pub use parallel::map as parallel;
pub use scheme::{Options, Scheme, SchemeError, Sparsity};
pub use trial::{candidates, trial};
