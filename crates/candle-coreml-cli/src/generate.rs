//! `candle-coreml generate`: text from a language model.

use std::collections::HashMap;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use candle_coreml::backend::BackendDevice;
use candle_coreml::generation::{Message, Options, Recommended, Step, Summary};
use candle_coreml::settings::Settings;
use candle_coreml::{ComputeUnits, EngineChoice};
use serde_json::json;

use crate::engine::EngineArguments;
use crate::sampling::SamplingArguments;
use crate::settings::ModelArguments;
use crate::{CommandResult, write};

mod any_device;
mod coreml_only;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The user's message; `-` reads it from standard input, as does no message at all where that is a pipe.
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt_tokens", "prompt"])]
    message: Option<String>,
    /// The user's message, as an option.
    #[arg(long, short, conflicts_with = "prompt_tokens")]
    prompt: Option<String>,
    /// Begin with this system message.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt_tokens", "no_template"])]
    system: Option<String>,
    /// The prompt as token ids, used unchanged.
    #[arg(long, value_delimiter = ',', value_name = "1,2,3")]
    prompt_tokens: Option<Vec<u32>>,
    /// Generate at most this many tokens.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Continue the prompt as it is, without the chat template.
    #[arg(long)]
    no_template: bool,
    /// Turn the thinking mode of the chat template on or off.
    #[arg(long, value_name = "true|false")]
    thinking: Option<bool>,
    /// Stop at this text (repeatable).
    #[arg(long)]
    stop: Vec<String>,
    #[command(flatten)]
    engine: EngineArguments,
    /// Print one JSON object instead of the text.
    #[arg(long)]
    json: bool,
    /// Write the logits of every step to this file (safetensors: `logits` [steps, vocab], F32).
    #[arg(long, value_name = "FILE")]
    dump_logits: Option<PathBuf>,
    /// Continue with these tokens instead of sampled ones.
    #[arg(long, value_delimiter = ',', value_name = "4,5,6")]
    force_tokens: Vec<u32>,
}

impl Arguments {
    /// The conversation that a prompt makes.
    fn messages(&self, prompt: &str) -> Vec<Message> {
        let system = self.system.iter().map(Message::system);
        system.chain([Message::user(prompt)]).collect()
    }

    fn options(&self, recommended: &Recommended, output: &Output<'_>) -> Options {
        Options {
            max_tokens: self.max_tokens,
            sampling: self.sampling.sampling(recommended),
            lookup: self.sampling.lookup(),
            stop: self.stop.clone(),
            force: self.force_tokens.clone(),
            thinking: self.thinking,
            cancel: output.cancel.clone(),
            ..Options::default()
        }
    }

    /// True if an argument requires the Core ML pipeline.
    fn needs_coreml(&self) -> bool {
        let EngineArguments { engine, compute_units } = self.engine;
        self.prompt_tokens.is_some() || engine != EngineChoice::default() || compute_units != ComputeUnits::default()
    }
}

/// Streams an answer and collects the logits for `--dump-logits`.
struct Output<'a> {
    arguments: &'a Arguments,
    streaming: bool,
    printed: usize,
    logits: Vec<f32>,
    steps: usize,
    /// Why the text could not be written.
    unwritten: Option<Box<dyn std::error::Error>>,
    /// Ends the answer.
    cancel: Arc<AtomicBool>,
}

/// Statistics of an answer.
struct Report {
    prompt: Vec<u32>,
    summary: Summary,
    load_seconds: f64,
}

impl<'a> Output<'a> {
    fn new(arguments: &'a Arguments, settings: &Settings) -> Self {
        let streaming = settings.streaming_enabled && !arguments.json;
        Self { arguments, streaming, printed: 0, logits: Vec::new(), steps: 0, unwritten: None, cancel: Arc::default() }
    }

    /// Handles a token; calls `begins` before printing the first text.
    fn step(&mut self, step: &Step, begins: impl FnOnce()) {
        if self.arguments.dump_logits.is_some() {
            self.logits.extend_from_slice(&step.logits);
            self.steps += 1;
        }
        if self.streaming {
            if self.printed == 0 && !step.text.is_empty() {
                begins();
            }
            self.printed += step.text.len();
            if let Err(e) = write::text(&step.text) {
                self.unwritten.get_or_insert(e);
                self.cancel.store(true, Ordering::Relaxed);
            }
        }
    }

    fn finish(mut self, report: &Report) -> CommandResult {
        if let Some(e) = self.unwritten.take() {
            return Err(e);
        }
        let Report { prompt, summary, load_seconds } = report;
        if let Some(path) = &self.arguments.dump_logits {
            let vocab = self.logits.len() / self.steps.max(1);
            let tensor = Tensor::from_vec(self.logits, (self.steps, vocab), &Device::Cpu)?;
            write::tensors(path, &HashMap::from([("logits".to_owned(), tensor)]))?;
        }
        if self.arguments.json {
            let report = json!({
                "prompt_tokens": prompt,
                "tokens": summary.tokens,
                "text": summary.text,
                "prefill_tokens_per_second": summary.prefill_rate(),
                "decode_tokens_per_second": summary.decode_rate(),
                "load_seconds": load_seconds,
                "stop_reason": summary.stop_reason,
            });
            out!("{report}")?;
        } else {
            out!("{}", summary.text.get(self.printed..).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Largest prompt on standard input, in bytes.
const LONGEST_PROMPT: u64 = 64 << 20;

/// The prompt on standard input, without the last line break.
fn piped() -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST_PROMPT + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("standard input: {e}"))?;
    if text.len() as u64 > LONGEST_PROMPT {
        return Err(format!("standard input: a prompt has at most {LONGEST_PROMPT} bytes").into());
    }
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)).to_owned())
}

pub(crate) fn run(mut arguments: Arguments) -> CommandResult {
    if arguments.prompt_tokens.is_none() {
        let terminal = std::io::stdin().is_terminal();
        arguments.prompt = match arguments.message.take().or(arguments.prompt.take()) {
            Some(text) if text != "-" => Some(text),
            None if terminal => {
                return Err("no prompt: `candle-coreml generate \"Hello\"`, or `-` to type it here".into());
            }
            _ => Some(piped()?),
        };
    }
    let arguments = arguments;
    let settings = arguments.model.settings()?;
    let mut output = Output::new(&arguments, &settings);
    let report = if arguments.needs_coreml() {
        if settings.backend.chain().first() != Some(&BackendDevice::CoreML) {
            let device = settings.backend.device;
            return Err(
                format!("--prompt-tokens, --engine and --compute-units need the device coreml, not {device}").into()
            );
        }
        coreml_only::run(&arguments, &settings, &mut output)?
    } else {
        any_device::run(&arguments, &settings, &mut output)?
    };
    output.finish(&report)
}
