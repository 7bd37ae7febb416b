//! Core ML models with Candle tensors, on any platform.
//!
//! - [`CoreMLModel`]: one model file. [`CoreMLState`]: its state between predictions.
//! - [`engine`]: Apple's Core ML (`native`) or our own (`portable`); which one runs a model, and why.
//! - [`anemll`]: language models of several components (embeddings, FFN chunks, LM head).
//!   [`generation`]: tokenizer, chat template, sampling, streaming.
//! - [`backend`]: text generation on whatever the machine has, Core ML or Candle, with a chain of fallbacks.
//! - [`encoder`]: texts to vectors. With the feature `tokio`, `nonblocking`: all of this in async programs.
//! - [`tensors`]: files of tensors (safetensors, `.npz`, `.npy`). With the feature `images`, `images`: image files.
//! - [`QwenModel`]: the pipeline by the name that Qwen users know.
//! - [`cache`]: what lies in the caches of this machine. With the feature `hub`, which is on by default, the module
//!   `hub` downloads models by name, and `UnifiedModelLoader` loads them without any configuration.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `hub` (default) | models by name from the Hugging Face hub, in pure Rust |
//! | `hub-ring` | the same on processors that the default TLS does not support; needs a C compiler |
//! | `images` | PNG, JPEG and TIFF files as inputs |
//! | `candle-models` | `.safetensors` checkpoints of Qwen and Llama, as backends beside Core ML |
//! | `metal`, `cuda` | Candle's devices for those checkpoints |
//! | `accelerate`, `mkl` | Candle's own products through Apple's Accelerate or Intel's MKL |

pub mod anemll;
pub mod backend;
mod byte_limit;
pub mod cache;
pub mod config;
pub mod encoder;
pub mod engine;
pub mod error;
mod files;
pub mod generation;
#[cfg(feature = "hub")]
pub mod hub;
mod image;
#[cfg(feature = "images")]
pub mod images;
#[cfg(feature = "hub")]
mod loader;
pub mod model;
#[cfg(any(feature = "hub", feature = "remote"))]
mod net;
#[cfg(feature = "tokio")]
pub mod nonblocking;
pub mod qwen;
pub mod state;
pub mod student;
pub mod tensors;
pub mod utils;

pub use anemll::ModelNamingConfig;
pub use anemll::model_config::{self, ModelConfig};
pub use cache::CacheManager;
pub use config::Config;
pub use engine::{ComputeUnits, EngineOptions, Limits};
pub use error::{Error, Result};
#[cfg(feature = "hub")]
pub use loader::UnifiedModelLoader;
pub use model::{CoreMLModel, CoreMLModelBuilder, DictionaryKey, EngineChoice, FeatureValue, ModelInputs};
pub use qwen::{QwenConfig, QwenModel};
pub use state::CoreMLState;
pub use student::CoreMLModelWrapper;

/// The native engine itself: batches, futures and hints, which the common interface does not have.
pub use coreml_apple as native;
/// The file formats, for tools that look inside models.
pub use coreml_format as format;
/// What models expect and return.
pub use coreml_format::description;
/// How models of each type become programs.
pub use coreml_lower as lower;

/// The Rust in the guides compiles: it is tested as documentation.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../ANEMLL_GUIDE.md")]
    struct Anemll;
    #[doc = include_str!("../../../CUSTOM_MODEL_GUIDE.md")]
    struct CustomModel;
    #[doc = include_str!("../examples/WORKED_EXAMPLE.md")]
    struct WorkedExample;
    #[doc = include_str!("../README.md")]
    struct Crate;
}
