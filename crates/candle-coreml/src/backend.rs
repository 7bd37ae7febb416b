//! Text generation on any supported device.
//!
//! A [`BackendConfig`] selects the model and the devices; [`open`](open()) turns it into a [`TextGeneration`]. The
//! backends form a chain: if one is unavailable, can't load the model or fails at its first step, the next one takes
//! over, and [`FallbackGenerator::history`] lists the reasons.
//!
//! [`settings`](crate::settings) reads and writes the configuration file; [`catalog`](crate::catalog) recommends a
//! repository by device and memory.
//!
//! - [`CoreMLGenerator`]: folders of Core ML packages, through [`crate::anemll`].
//! - `CandleGenerator` (feature `candle-models`): checkpoints (`config.json` and `.safetensors`) of Qwen 2.5,
//!   Qwen 3 and Llama through candle-transformers, on CPU, Metal or CUDA.
//! - `remote::RemoteGenerator` (feature `remote`): a remote model, on explicit request; not part of the chain.

use serde::{Deserialize, Serialize};

use crate::error::Result;
pub use crate::error::{Fallback, Stage};
use crate::generation::{Message, Options, Recommended, Step, StopReason, Summary};

mod availability;
#[cfg(feature = "candle-models")]
mod candle;
mod coreml;
mod device;
mod fallback;
mod open;
mod request;
mod shared;
mod turns;

pub use availability::{Availability, availability};
#[cfg(feature = "candle-models")]
pub use candle::{CandleGenerator, CandleOptions};
pub use coreml::CoreMLGenerator;
pub use device::BackendDevice;
pub use fallback::{Backend, FallbackGenerator};
pub use open::{backends, open};
pub use shared::SharedModel;

/// Model and devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendConfig {
    /// The first device to try.
    pub device: BackendDevice,
    /// Repository on the hub, such as `Qwen/Qwen3-0.6B`; used if `model_path` is unset.
    pub model_repo: Option<String>,
    /// Folder of the model.
    pub model_path: Option<std::path::PathBuf>,
    /// Devices to try after `device`, in order. `Auto` expands to all devices in default order.
    pub fallback_chain: Vec<BackendDevice>,
}

impl BackendConfig {
    /// The devices to try, in order, without duplicates or `Auto`.
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

/// Information about a generator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GeneratorInfo {
    /// The device.
    pub device: BackendDevice,
    /// Implementation: `native` (Apple's Core ML), `portable` (this project's engine) or `candle`.
    pub engine: &'static str,
    /// Folder of the model.
    pub model: std::path::PathBuf,
    /// Compute dtype, such as `f32`.
    pub dtype: &'static str,
    /// Context length in tokens.
    pub context: usize,
}

/// Statistics of one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestStats {
    /// Number of prompt tokens.
    pub prompt_tokens: usize,
    /// Number of prompt tokens that had to run; the others were cached.
    pub prefilled_tokens: usize,
    /// Prefill time in seconds.
    pub prefill_seconds: f64,
    /// Number of generated tokens.
    pub generated_tokens: usize,
    /// Number of steps after the prompt: forward passes, and right guesses that saved one.
    pub decode_steps: usize,
    /// Time of these steps in seconds.
    pub decode_seconds: f64,
    /// Number of oldest messages dropped to fit the context.
    pub dropped_messages: usize,
    /// Reason for the end of generation.
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

/// Cumulative statistics of a generator.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Number of tokens in the cache.
    pub context_used: usize,
    /// Number of requests served.
    pub turns: usize,
    /// Total number of generated tokens.
    pub generated_tokens: usize,
    /// The last request.
    pub last: Option<RequestStats>,
}

/// Cancels an answer from another thread or a signal handler: the answer in progress at its next token; if there is none,
/// the next answer at its start. A cancellation is cleared when generation ends.
pub type CancelHandle = crate::task::Task;

/// A text generation model on any backend. A generator holds the cache of one conversation; the cached prefix of the
/// next prompt is not recomputed.
pub trait TextGeneration: Send {
    /// Information about this generator.
    fn info(&self) -> GeneratorInfo;

    /// How the model's authors would have tokens chosen. Requests say how they are: nothing is applied unasked.
    fn recommended(&self) -> Recommended {
        Recommended::default()
    }

    /// Continues a text, without a chat template, and calls `on_token` for every token.
    ///
    /// # Errors
    /// [`EmptyPrompt`](crate::Error::EmptyPrompt), [`PromptTooLong`](crate::Error::PromptTooLong); if the engine fails.
    fn stream(&mut self, prompt: &str, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary>;

    /// Answers a conversation through the model's chat template. Drops the oldest messages if it exceeds the context;
    /// keeps a leading system message.
    ///
    /// # Errors
    /// Same as [`TextGeneration::stream`], or if the chat template is missing or rejects the conversation.
    fn chat(&mut self, messages: &[Message], options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary>;

    /// Continues a text and returns the whole result.
    ///
    /// # Errors
    /// Same as [`TextGeneration::stream`].
    fn generate(&mut self, prompt: &str, options: Options) -> Result<Summary> {
        self.stream(prompt, options, &mut |_| {})
    }

    /// Clears the conversation.
    fn reset(&mut self);

    /// Statistics so far.
    fn stats(&self) -> Stats;

    /// Handle to cancel answers of this generator.
    fn cancel_handle(&self) -> CancelHandle;

    /// Uses an existing cancel handle.
    fn set_cancel_handle(&mut self, handle: CancelHandle);

    /// The model for several concurrent conversations; `None` if it can't be shared.
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
