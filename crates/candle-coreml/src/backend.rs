//! Text generation on whatever the machine has.
//!
//! A [`BackendConfig`] says which model and which device; [`open`](open()) makes a [`TextGeneration`] of it. The
//! backends form a chain: when one can't be had, can't load the model or fails at its very first step, the next
//! one takes over and [`FallbackGenerator::history`] tells why.
//!
//! [`settings`](crate::settings) reads and writes a configuration with its file; [`catalog`](crate::catalog) recommends a
//! repository by device and memory.
//!
//! - [`CoreMLGenerator`]: folders of Core ML packages, through [`crate::anemll`].
//! - `CandleGenerator` (feature `candle-models`): checkpoints (`config.json` and `.safetensors`) of Qwen 2.5,
//!   Qwen 3 and Llama through candle-transformers, on CPU, Metal or CUDA.
//! - `remote::RemoteGenerator` (feature `remote`): a model elsewhere, for programs that ask for it; no part of the chain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::Result;
pub use crate::error::{Fallback, Stage};
use crate::generation::{Message, Options, Step, StopReason, Summary};

mod availability;
#[cfg(feature = "candle-models")]
mod candle;
mod coreml;
mod device;
mod fallback;
mod open;
mod request;
mod shared;

pub use availability::{Availability, availability};
#[cfg(feature = "candle-models")]
pub use candle::{CandleGenerator, CandleOptions};
pub use coreml::CoreMLGenerator;
pub use device::BackendDevice;
pub use fallback::{Backend, FallbackGenerator};
pub use open::{backends, open};
pub use shared::SharedModel;

/// Which model runs where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendConfig {
    /// The device to begin with.
    pub device: BackendDevice,
    /// Name of a repository on the hub, such as `Qwen/Qwen3-0.6B`; used when there is no `model_path`.
    pub model_repo: Option<String>,
    /// Folder with the model.
    pub model_path: Option<std::path::PathBuf>,
    /// Devices to try after `device`, in order. `Auto` stands for all in their usual order.
    pub fallback_chain: Vec<BackendDevice>,
}

impl BackendConfig {
    /// The devices in the order in which they are tried, each once, without `Auto`.
    pub fn chain(&self) -> Vec<BackendDevice> {
        let mut chain = Vec::new();
        for device in std::iter::once(&self.device).chain(&self.fallback_chain) {
            for &device in device.order() {
                if !chain.contains(&device) {
                    chain.push(device);
                }
            }
        }
        chain
    }
}

/// What a generator is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GeneratorInfo {
    /// The device.
    pub device: BackendDevice,
    /// What computes: `native` (Apple's Core ML), `portable` (the engine of this project) or `candle`.
    pub engine: &'static str,
    /// The folder of the model.
    pub model: std::path::PathBuf,
    /// Type that the model computes in, such as `f32`.
    pub dtype: &'static str,
    /// Tokens that fit into one conversation.
    pub context: usize,
}

/// Statistics of one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestStats {
    /// Tokens of the whole prompt.
    pub prompt_tokens: usize,
    /// Those of them that had to be run; the others were in the cache.
    pub prefilled_tokens: usize,
    /// Seconds that this took.
    pub prefill_seconds: f64,
    /// Tokens that were generated.
    pub generated_tokens: usize,
    /// Forward passes after the prompt.
    pub decode_steps: usize,
    /// Seconds that these took.
    pub decode_seconds: f64,
    /// The oldest messages that were left out because the conversation did not fit.
    pub dropped_messages: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
}

impl RequestStats {
    /// Prompt tokens per second.
    pub fn prefill_rate(&self) -> f64 {
        self.prefilled_tokens as f64 / self.prefill_seconds.max(1e-9)
    }

    /// Generated tokens per second.
    pub fn decode_rate(&self) -> f64 {
        self.decode_steps as f64 / self.decode_seconds.max(1e-9)
    }
}

/// Statistics of a generator.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Tokens in the cache.
    pub context_used: usize,
    /// Requests that were answered.
    pub turns: usize,
    /// Tokens that were generated in all.
    pub generated_tokens: usize,
    /// The last request.
    pub last: Option<RequestStats>,
}

/// Ends an answer from elsewhere: another thread, a signal handler.
#[derive(Debug, Clone, Default)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Ends the answer in progress at its next token; without one, the next answer at its start.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether an answer is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Clears a pending cancellation; done automatically when generation ends.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

/// A model that answers, wherever it runs. One generator holds one conversation's cache: what it holds of the
/// next prompt already is not run again.
pub trait TextGeneration: Send {
    /// What this generator is.
    fn info(&self) -> GeneratorInfo;

    /// Continues a text as it is, without chat template, and calls `on_token` with every token.
    ///
    /// # Errors
    /// [`EmptyPrompt`](crate::Error::EmptyPrompt), [`PromptTooLong`](crate::Error::PromptTooLong), failures of the engine.
    fn stream(&mut self, prompt: &str, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary>;

    /// Answers a conversation through the model's chat template. The oldest messages are left out when it does
    /// not fit the context; a system message at the beginning stays.
    ///
    /// # Errors
    /// As [`TextGeneration::stream`], and when the model has no chat template or the template refuses.
    fn chat(&mut self, messages: &[Message], options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary>;

    /// Continues a text and returns all at once.
    ///
    /// # Errors
    /// As [`TextGeneration::stream`].
    fn generate(&mut self, prompt: &str, options: Options) -> Result<Summary> {
        self.stream(prompt, options, &mut |_| {})
    }

    /// Forgets the conversation.
    fn reset(&mut self);

    /// What was done until now.
    fn stats(&self) -> Stats;

    /// Ends answers of this generator from elsewhere.
    fn cancel_handle(&self) -> CancelHandle;

    /// Uses an existing cancel handle.
    fn set_cancel_handle(&mut self, handle: CancelHandle);

    /// The model for several conversations at once; none where it can't be shared.
    fn share(&self) -> Option<SharedModel> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_device_once_and_never_auto() {
        use BackendDevice::*;
        let chain = |device, fallback: &[BackendDevice]| {
            BackendConfig { device, fallback_chain: fallback.to_vec(), ..BackendConfig::default() }.chain()
        };
        assert_eq!(chain(Auto, &[]), [CoreML, Metal, Cuda, Cpu]);
        assert_eq!(chain(Cuda, &[]), [Cuda]);
        assert_eq!(chain(Cuda, &[Cpu, Cuda]), [Cuda, Cpu]);
        assert_eq!(chain(Cpu, &[Auto]), [Cpu, CoreML, Metal, Cuda]);
    }
}
