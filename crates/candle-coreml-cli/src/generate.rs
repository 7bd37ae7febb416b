//! `candle-coreml generate`: text from a language model.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_coreml::generation::{Message, Options, Step};
use candle_coreml::{QwenConfig, QwenModel};
use serde_json::json;

use crate::engine::EngineArguments;
use crate::sampling::SamplingArguments;
use crate::{CommandResult, model, write};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder with the model's components, or a model of the hub, org/name[@revision], which is downloaded when it is
    /// not in the cache; without it, the small model that comes with the project.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Text of the user's message.
    #[arg(long, conflicts_with = "prompt_tokens", required_unless_present = "prompt_tokens")]
    prompt: Option<String>,
    /// Prompt as token ids, used as they are.
    #[arg(long, value_delimiter = ',', value_name = "1,2,3")]
    prompt_tokens: Option<Vec<u32>>,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Continues the prompt as it is, without the chat template.
    #[arg(long)]
    no_template: bool,
    /// Turns the thinking mode of the chat template on or off.
    #[arg(long, value_name = "true|false")]
    thinking: Option<bool>,
    /// Text that ends generation (repeatable).
    #[arg(long)]
    stop: Vec<String>,
    #[command(flatten)]
    engine: EngineArguments,
    /// Prints one JSON object instead of the text.
    #[arg(long)]
    json: bool,
    /// Writes the logits of every step (safetensors: `logits` [steps, vocab], F32).
    #[arg(long, value_name = "FILE")]
    dump_logits: Option<PathBuf>,
    /// Feeds these tokens instead of the chosen ones.
    #[arg(long, value_delimiter = ',', value_name = "4,5,6")]
    force_tokens: Vec<u32>,
}

/// Where the model that comes with the project is: beside the executable, or in the source tree.
pub(crate) fn shipped_model() -> Result<PathBuf, String> {
    let name = "tiny-qwen3";
    let mut places = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().and_then(|e| e.parent().map(|p| p.to_owned())) {
        places.push(folder.join("models").join(name));
        places.push(folder.join("../share/candle-coreml/models").join(name));
    }
    places.push(PathBuf::from("models").join(name));
    places.push(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models")).join(name));
    places.into_iter().find(|p| p.is_dir()).ok_or_else(|| {
        format!("the model {name} that comes with the project was not found; name a model with --model DIR")
    })
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let folder = match &arguments.model {
        Some(model) => model::folder(model)?,
        None => shipped_model()?,
    };
    let started = Instant::now();
    let EngineArguments { engine, compute_units } = arguments.engine;
    let config = QwenConfig { thinking: arguments.thinking, engine, compute_units, ..QwenConfig::default() };
    let mut model = QwenModel::load_from_directory(&folder, Some(config))?;
    let load_seconds = started.elapsed().as_secs_f64();
    let prompt = match (&arguments.prompt_tokens, &arguments.prompt) {
        (Some(ids), _) => ids.clone(),
        (None, Some(text)) if arguments.no_template || model.tokenizer().chat_template().is_none() => {
            model.tokenizer().encode_with_special(text)?
        }
        (None, Some(text)) => {
            let text = model.chat_text(&[Message::user(text.as_str())])?;
            model.tokenize(&text)?
        }
        (None, None) => Vec::new(),
    };
    let options = Options {
        max_tokens: arguments.max_tokens,
        sampling: arguments.sampling.sampling(),
        stop: arguments.stop.clone(),
        force: arguments.force_tokens.clone(),
        ..Options::default()
    };
    let keep = arguments.dump_logits.is_some();
    let (mut logits, mut steps) = (Vec::new(), 0);
    let mut each = |step: &Step| {
        if keep {
            logits.extend_from_slice(&step.logits);
            steps += 1;
        }
        if !arguments.json {
            print!("{}", step.text);
            // A closed pipe is noticed by the next print.
            let _ = std::io::stdout().flush();
        }
    };
    let summary = model.generate_tokens(&prompt, options, &mut each)?;
    if let Some(path) = &arguments.dump_logits {
        let vocab = model.pipeline().dimensions().vocab;
        let tensor = Tensor::from_vec(logits, (steps, vocab), &Device::Cpu)?;
        write::tensors(path, &HashMap::from([("logits".to_owned(), tensor)]))?;
    }
    if arguments.json {
        let report = json!({
            "prompt_tokens": prompt,
            "tokens": summary.tokens,
            "text": summary.text,
            "prefill_tokens_per_second": summary.prefill_rate(),
            "decode_tokens_per_second": summary.decode_rate(),
            "load_seconds": load_seconds,
            "stop_reason": summary.stop_reason,
        });
        println!("{report}");
    } else {
        println!();
    }
    Ok(())
}
