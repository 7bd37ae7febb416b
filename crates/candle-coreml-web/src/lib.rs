//! Core ML models in a web page: a door to the library for `page/worker.js`.
//!
//! Everything runs on the thread that calls, which is to be a worker. Values cross as texts, JSON and typed arrays.
//!
//! ```
//! use candle_coreml_web::Files;
//!
//! let mut files = Files::new();
//! files.put("model.mlmodel", b"not a model".to_vec())?;
//! let error = files.found().and_then(|found| found.described("model.mlmodel")).expect_err("no model").to_string();
//! assert!(error.starts_with("model.mlmodel"), "{error}");
//! # Ok::<(), candle_coreml_web::Failure>(())
//! ```

mod chat;
mod describe;
mod failure;
mod files;
mod outputs;
mod predict;

pub use chat::Chat;
pub use failure::Failure;
pub use files::{Files, Found};
pub use predict::Predictor;
