//! Compresses the weights of ML Programs.
//!
//! - [`kmeans`]: tables of numbers with the least squared error. [`vectors`]: tables of vectors.
//! - [`quantize`]: integers per tensor, channel or block. [`prune`]: sparse weights.
//! - [`compress`]: a package with compressed weights, and what each layer lost.

mod encode;
pub mod kmeans;
mod package;
mod parallel;
pub mod prune;
pub mod quantize;
mod scheme;
pub mod vectors;

pub use package::{LayerReport, Report, compress};
pub use parallel::map as parallel;
pub use scheme::{Options, Scheme, SchemeError, Sparsity};
