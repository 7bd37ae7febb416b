//! Writes Core ML models: programs built operation by operation, and models edited.
//!
//! - [`builder`]: a typed builder for ML Programs, checked against the table of operations.
//! - [`compile`](mod@compile): packages to compiled models and back.
//! - [`passes`]: rewrites before writing.
//! - [`batch`]: another batch.
//! - [`edit`]: weights, names, metadata and functions of models that exist.
//!
//! ```
//! use coreml_format::{dtype::DataType, program::{Opset, Value}};
//! use coreml_write::builder::{FunctionBuilder, PackageBuilder};
//!
//! let folder = tempfile::tempdir()?;
//! let mut package = PackageBuilder::create(&folder.path().join("linear.mlpackage"))?;
//! let bytes: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
//! let weight = package.weight(DataType::F32, &[2, 3], [bytes])?;
//!
//! let mut f = FunctionBuilder::new(Opset::Ios18);
//! let x = f.input("x", DataType::F32, [1, 3])?;
//! let weight = f.constant("weight", weight)?;
//! let y = f.op("linear").arg("x", &x).arg("weight", &weight).done()?;
//! let y = f.op("relu").arg("x", &y).done()?;
//! f.output("y", &y)?;
//! package.add("main", f)?;
//! package.finish()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod batch;
pub mod builder;
pub mod compile;
pub mod edit;
mod infer;
mod names;
pub mod passes;

pub(crate) use builder::show as builder_show;
