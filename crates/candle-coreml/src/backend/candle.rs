//! Checkpoints (`config.json`, `.safetensors`, tokenizer) on Candle: the families of `families.rs`, through
//! candle-transformers.
//!
//! Checkpoints are checked before candle-transformers reads them: every tensor that the configuration requires exists
//! in the right shape, and features of the network that it would silently ignore are rejected.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device};

use super::request::{Prompt, Requests};
use super::{BackendDevice, CancelHandle, GeneratorInfo, SharedModel, Stats, TextGeneration};
use crate::error::{Error, Result};
use crate::generation::{Decoder, Message, Options, Step, Summary, Tokenizer};

mod cached;
mod checkpoint;
mod config;
mod families;

use cached::Cached;
use checkpoint::Checkpoint;
use families::Family;

/// Loading options of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandleOptions {
    /// Compute dtype; `None`: chosen by device (see [`CandleGenerator::load`]).
    pub dtype: Option<DType>,
    /// Maximum number of tokens in the conversation, capped at the model's `max_position_embeddings`. The cache grows
    /// with the conversation, up to this.
    pub context: usize,
}

impl Default for CandleOptions {
    fn default() -> Self {
        Self { dtype: None, context: 8192 }
    }
}

/// A checkpoint on a Candle device with its tokenizer and one conversation.
pub struct CandleGenerator {
    model: Cached,
    tokenizer: Arc<Tokenizer>,
    folder: PathBuf,
    device: BackendDevice,
    dtype: DType,
    requests: Requests,
}

impl std::fmt::Debug for CandleGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleGenerator").field("info", &self.info()).finish_non_exhaustive()
    }
}

/// Candle device of a backend device.
fn candle_device(device: BackendDevice) -> Result<Device> {
    match device {
        BackendDevice::Cpu => Ok(Device::Cpu),
        BackendDevice::Metal => Ok(Device::new_metal(0)?),
        BackendDevice::Cuda => Ok(Device::new_cuda(0)?),
        BackendDevice::CoreML | BackendDevice::Auto => {
            Err(Error::Request(format!("a checkpoint runs on cpu, metal or cuda, not on {device}")))
        }
    }
}

/// Default compute dtype.
fn usual_dtype(device: BackendDevice, family: &Family, stored: DType) -> DType {
    match device {
        BackendDevice::Cpu => DType::F32,
        _ if family.needs_f32 => DType::F32,
        BackendDevice::Cuda if stored == DType::BF16 => DType::BF16,
        _ => DType::F16,
    }
}

impl CandleGenerator {
    /// Loads a checkpoint onto `cpu`, `metal` or `cuda`.
    ///
    /// The default dtype is f32 on the CPU, f16 on Metal, bf16 on CUDA if the weights are stored so and f16 otherwise;
    /// families whose rotary angles candle-transformers computes in the model's dtype always use f32 (Qwen 2.5, Gemma, Phi 3,
    /// OLMo 2). The context ends with a sliding window that the network lacks (Mistral, Gemma 2, Phi 3).
    ///
    /// # Errors
    /// If a file is missing or malformed, the family or one of its features is not supported, tensors are missing or
    /// their shapes differ from the configuration, or the device is unavailable.
    pub fn load(folder: impl AsRef<Path>, device: BackendDevice, options: &CandleOptions) -> Result<Self> {
        let folder = folder.as_ref();
        let checkpoint = Checkpoint::open(folder)?;
        let tokenizer = Arc::new(Tokenizer::load(folder)?);
        let dtype = options.dtype.unwrap_or_else(|| usual_dtype(device, checkpoint.config.family, checkpoint.stored));
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::Request(format!("dtype {dtype:?}: expected F32, F16 or BF16")));
        }
        let context = options.context.min(checkpoint.config.max_position_embeddings);
        let model = Cached::load(&checkpoint, &candle_device(device)?, dtype, context)?;
        Ok(Self { model, tokenizer, folder: folder.to_owned(), device, dtype, requests: Requests::default() })
    }

    /// Appends tokens to the conversation and returns the logits `[vocab]` after the last one, F32.
    ///
    /// # Errors
    /// If there are no tokens, ids are outside the vocabulary, the context is exceeded, or Candle fails.
    pub fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.model.forward(ids)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn run(&mut self, prompt: &Prompt, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        self.requests.run(&mut self.model, &self.tokenizer, prompt, options, on_token)
    }
}

impl TextGeneration for CandleGenerator {
    fn recommended(&self) -> crate::generation::Recommended {
        crate::generation::Recommended::read(&self.folder)
    }

    fn info(&self) -> GeneratorInfo {
        GeneratorInfo {
            device: self.device,
            engine: "candle",
            model: self.folder.clone(),
            dtype: self.dtype.as_str(),
            context: self.model.context(),
        }
    }

    fn stream(&mut self, prompt: &str, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        let prompt = Prompt::text(&self.tokenizer, prompt)?;
        self.run(&prompt, options, on_token)
    }

    fn chat(&mut self, messages: &[Message], options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        let prompt = Prompt::chat(&self.tokenizer, messages, &options, self.model.context())?;
        self.run(&prompt, options, on_token)
    }

    fn reset(&mut self) {
        self.model.truncate(0);
        self.requests.stats.context_used = 0;
    }

    fn stats(&self) -> Stats {
        self.requests.stats.clone()
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.requests.cancel.clone()
    }

    fn set_cancel_handle(&mut self, handle: CancelHandle) {
        self.requests.cancel = handle;
    }

    fn share(&self) -> Option<SharedModel> {
        // Candle's networks are `Send`, but not all are `Sync`.
        let empty = Mutex::new(self.model.fork());
        let make = move || {
            let empty = empty.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Box::new(empty.fork()) as Box<dyn Decoder + Send>)
        };
        Some(SharedModel::new(self.info(), self.model.vocab(), self.tokenizer.clone(), make))
    }
}
