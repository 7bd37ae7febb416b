//! Core ML models with Candle tensors, on any platform.
//!
//! ```
//! # std::env::set_current_dir("../..")?;
//! use candle_core::{Device, Tensor};
//! use candle_coreml::CoreMLModel;
//!
//! let model = CoreMLModel::builder("models/tiny-intent/intent.mlpackage").load()?;
//! let ids = Tensor::new(&[[2i64, 40, 41, 3]], &Device::Cpu)?;
//! let outputs = model.forward_all(&[&ids, &ids.ones_like()?])?;
//! assert_eq!(outputs["logits"].dims(), [1, 8]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Choosing an API
//!
//! | you have | use |
//! |---|---|
//! | one model file | [`CoreMLModel::builder`]; [`CoreMLState`] for its state between predictions |
//! | a language model in a folder | [`LanguageModel::load_from_directory`] |
//! | one on the Hugging Face Hub | `UnifiedModelLoader` (feature `hub`) |
//! | a language model, on any device that can run it | [`backend::open`]: Core ML or Candle, with a fallback chain |
//! | texts to embed as vectors | [`encoder::TextEncoder`] |
//! | an async program | `nonblocking::AsyncGenerator`, `nonblocking::AsyncModel` (feature `tokio`) |
//! | token ids to map to logits, in a training loop | [`CoreMLModelWrapper`] |
//! | your own pipeline | [`anemll::Pipeline`] and [`generation::Generation`], or a [`CoreMLModel`] per component |
//! | a neural network with layers of your own | [`custom`] |
//! | a file to inspect | [`CoreMLModel::description`], [`format`](mod@format), [`CoreMLModel::placement`] |
//! | a Candle model to write as a Core ML model, a Core ML model to edit | [`mod@write`] |
//! | tensors or images in files | [`tensors`], `images` (feature `images`) |
//! | pixels in memory | [`pixels`] |
//! | models in memory or in zip archives | [`format::memory`], [`archive`] |
//! | inputs as JSON; made-up inputs | [`json`], [`made_up`] |
//!
//! [`engine`] chooses the engine that runs a model: Apple's Core ML (`native`) or our own (`portable`). [`cache`] lists
//! and cleans the caches on this machine. Fallible calls return [`Error`]; programs match on its [`kind`](Error::kind).
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `language` (default) | language models, encoders, chat templates, the settings file; without it a program predicts, and builds without a tokenizer |
//! | `hub` (default) | models by name from the Hugging Face Hub, in pure Rust |
//! | `hub-ring` | the same on processors without support in the default TLS; needs a C compiler |
//! | `images` | PNG, JPEG, TIFF, WebP and BMP files as inputs |
//! | `constrained` | answers in the form of a JSON schema, a regular expression or a grammar: [`generation`] |
//! | `tokio` | `nonblocking`: async models and text streams |
//! | `remote` | text generation through the Anthropic Messages API |
//! | `candle-models` | `.safetensors` checkpoints of Qwen and Llama, as backends besides Core ML |
//! | `metal`, `cuda` | Candle's devices for those checkpoints |
//! | `accelerate`, `mkl` | Candle's matrix products through Apple's Accelerate or Intel's MKL |

// Parts of the engines' interface serve language models alone.
#![cfg_attr(not(feature = "language"), allow(dead_code, unused_variables))]

#[cfg(feature = "language")]
pub mod anemll;
pub mod archive;
#[cfg(feature = "language")]
pub mod backend;
#[cfg(feature = "language")]
mod byte_limit;
pub mod cache;
#[cfg(feature = "language")]
pub mod catalog;
pub mod config;
pub mod custom;
#[cfg(feature = "language")]
pub mod encoder;
pub mod engine;
pub mod error;
mod files;
#[cfg(feature = "language")]
mod folder;
#[cfg(feature = "language")]
pub mod generation;
#[cfg(feature = "hub")]
pub mod hub;
mod image;
#[cfg(feature = "images")]
pub mod images;
pub mod json;
#[cfg(feature = "language")]
pub mod language_model;
#[cfg(all(feature = "hub", feature = "language"))]
mod loader;
#[cfg(feature = "language")]
pub mod logits_model;
pub mod made_up;
pub mod model;
#[cfg(any(feature = "hub", feature = "remote"))]
mod net;
#[cfg(feature = "tokio")]
pub mod nonblocking;
pub mod pixels;
#[cfg(feature = "language")]
pub mod qwen;
#[cfg(feature = "remote")]
pub mod remote;
pub mod sensitivity;
#[cfg(feature = "language")]
pub mod settings;
#[cfg(feature = "language")]
mod single_file;
pub mod state;
pub mod tensors;
#[cfg(feature = "language")]
pub mod utils;
pub mod write;

#[cfg(feature = "language")]
pub use anemll::ModelNamingConfig;
#[cfg(feature = "language")]
pub use anemll::model_config::{self, ModelConfig};
pub use cache::CacheManager;
pub use config::Config;
pub use engine::{ComputeUnits, EngineOptions, Limits};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "language")]
pub use language_model::{LanguageModel, LanguageModelConfig};
#[cfg(all(feature = "hub", feature = "language"))]
pub use loader::UnifiedModelLoader;
#[cfg(feature = "language")]
pub use logits_model::CoreMLModelWrapper;
pub use model::{
    CoreMLModel, CoreMLModelBuilder, DictionaryKey, EngineChoice, FeatureRow, FeatureValue, ModelInputs, RowOutputs,
    ValueStats,
};
#[cfg(feature = "language")]
pub use qwen::{QwenConfig, QwenModel};
pub use state::CoreMLState;

/// Compression of the weights of packages.
pub use coreml_compress as compress;
/// Conversion of Hugging Face checkpoints to packages.
pub use coreml_convert as convert;
/// Instruction sets of the portable engine's kernels.
pub use coreml_engine::isa;
/// The file formats, for tools that inspect models.
pub use coreml_format as format;
/// Inputs and outputs of models.
pub use coreml_format::description;
pub use coreml_format::task;
pub use coreml_format::task::Task;
/// The native engine itself: batches, futures and hints beyond the common interface.
pub use coreml_framework as native;
/// Lowering of each model type to a program.
pub use coreml_lower as lower;
/// Tensors over memory of others, for predictions without a copy of their inputs.
pub use coreml_values::lent;

/// Tests the Rust code in the guides as documentation.
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
    #[doc = include_str!("../../../docs/neural-networks.md")]
    struct NeuralNetworks;
    #[doc = include_str!("../README.md")]
    struct Crate;
    #[cfg(feature = "constrained")]
    #[doc = include_str!("../../../docs/start-rust.md")]
    struct StartRust;
}
