//! Runs a language model's components by hand: embeddings, FFN chunks with `prefill` and `infer` over one KV cache, LM
//! head. [`candle_coreml::anemll::Pipeline`] does the same; this is for pipelines that differ from it.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example qwen_multi_component
//! ```

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use candle_coreml::FeatureValue;
use candle_coreml::generation::{Message, Tokenizer};
use candle_coreml::utils::sampling::{Sampler, Sampling};
use candle_coreml::{CoreMLModel, CoreMLState, Error, ModelConfig, QwenConfig, Result};
use clap::Parser;

/// Run a language model's components by hand.
#[derive(Parser)]
struct Args {
    /// Folder with the components and the tokenizer.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3"))]
    model: PathBuf,
    /// Question.
    #[arg(long, default_value = "What is the capital of Peru?")]
    prompt: String,
    /// Maximum number of tokens of the answer.
    #[arg(long, default_value_t = 32)]
    max_tokens: usize,
}

/// One [`CoreMLModel`] per function of every file, and the tensor shapes.
struct Parts {
    embeddings: CoreMLModel,
    prefill: Vec<CoreMLModel>,
    infer: Vec<CoreMLModel>,
    head: CoreMLModel,
    tensors: QwenConfig,
    batch: usize,
    context: usize,
}

impl Parts {
    fn load(folder: &Path) -> Result<Self> {
        // Discovers the components from the files themselves.
        let config = ModelConfig::discover(folder)?;
        let load = |name: &str| {
            let Some(part) = config.components.get(name) else { return Ok(None) };
            println!("{name:<14} {} ({})", part.file, part.function);
            CoreMLModel::builder(folder.join(&part.file)).function(&part.function).load().map(Some)
        };
        let needed = |name: &str| load(name)?.ok_or_else(|| Error::Request(format!("the model has no `{name}`")));
        let chunks = |kind: &str| (1..).map_while(|i| load(&format!("{kind}_{i}")).transpose()).collect::<Result<_>>();
        Ok(Self {
            embeddings: needed("embeddings")?,
            prefill: chunks("ffn_prefill")?,
            infer: chunks("ffn_infer")?,
            head: needed("lm_head")?,
            batch: config.shapes.batch_size,
            context: config.shapes.context_length,
            tensors: QwenConfig::from_model_config(config),
        })
    }

    /// Hidden states after all layers for tokens at positions `start..`; updates the cache with their keys and values.
    fn run(&self, state: &mut CoreMLState, ids: &[i64], start: usize, is_prefill: bool) -> Result<Tensor> {
        let positions: Vec<i64> = (start as i64..).take(ids.len()).collect();
        let (input, chunks) = if is_prefill {
            (self.tensors.create_embeddings_input_tensor(ids)?, &self.prefill)
        } else {
            (self.tensors.create_single_token_embeddings_input(ids[0])?, &self.infer)
        };
        let mut hidden = self.embeddings.forward(&input)?;
        if !is_prefill {
            // A fixed-length embeddings model pads; the token is in the first row.
            hidden = hidden.narrow(1, 0, 1)?;
        }
        for chunk in chunks {
            let mut inputs = Vec::new();
            for name in chunk.input_names() {
                let tensor = match name.as_str() {
                    "hidden_states" => hidden.clone(),
                    "position_ids" => self.tensors.create_position_ids_with_mode_detection(&positions, is_prefill)?,
                    "causal_mask" => {
                        self.tensors.create_causal_mask_with_mode_detection(start, self.context, is_prefill)?
                    }
                    "current_pos" => self.tensors.create_current_position_tensor(start)?,
                    "update_mask" => self.tensors.create_update_mask_tensor(start)?,
                    _ => return Err(Error::Request(format!("a chunk wants the unknown input `{name}`"))),
                };
                inputs.push((name, tensor));
            }
            let named: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            hidden = only_tensor(chunk.predict(&named, Some(&mut *state))?.into_values())?;
        }
        Ok(hidden)
    }

    /// The most likely token after hidden states `[1, 1, hidden]`; the head returns its logits in one or several parts.
    fn choose(&self, sampler: &mut Sampler, hidden: &Tensor) -> Result<u32> {
        let parts: Vec<Tensor> = self.head.forward_all(hidden)?.into_values().collect();
        let logits = Tensor::cat(&parts, parts[0].rank() - 1)?.to_dtype(DType::F32)?.flatten_all()?;
        Ok(sampler.choose(&logits.to_vec1()?, &[]))
    }
}

fn only_tensor(outputs: impl Iterator<Item = FeatureValue>) -> Result<Tensor> {
    let mut tensors = outputs.filter_map(|o| if let FeatureValue::Tensor(t) = o { Some(t) } else { None });
    tensors.next().ok_or_else(|| Error::Request("a chunk gives no tensor".to_owned()))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let parts = Parts::load(&args.model)?;
    let tokenizer = Tokenizer::load(&args.model)?;
    let text = match tokenizer.chat_template() {
        Some(template) => template.render(&[Message::user(&args.prompt)], None)?,
        None => args.prompt.clone(),
    };
    let mut tokens: Vec<i64> = tokenizer.encode(&text)?.into_iter().map(i64::from).collect();
    if tokens.is_empty() || tokens.len() + args.max_tokens > parts.context {
        return Err(Error::Request(format!(
            "{} prompt tokens and {} new ones do not fit the context of {}",
            tokens.len(),
            args.max_tokens,
            parts.context
        )));
    }

    // One state for all chunks and both functions.
    let models: Vec<&CoreMLModel> = parts.prefill.iter().chain(&parts.infer).collect();
    let mut state = CoreMLState::shared_by(&models)?;

    // Full batches of the prompt through `prefill`; later tokens overwrite the padding of the last one. A batch must
    // not exceed the context, and the last token goes through `infer`, whose output the head takes.
    let last = tokens.len() - 1;
    let mut known = 0;
    while known < last {
        let end = if known + parts.batch <= parts.context { last.min(known + parts.batch) } else { known + 1 };
        parts.run(&mut state, &tokens[known..end], known, known + parts.batch <= parts.context)?;
        known = end;
    }

    let prompt = tokens.len();
    let mut sampler = Sampler::new(Sampling::default());
    while tokens.len() - prompt < args.max_tokens {
        let hidden = parts.run(&mut state, &tokens[known..], known, false)?;
        known += 1;
        let token = parts.choose(&mut sampler, &hidden)?;
        if tokenizer.end_tokens().contains(&token) {
            break;
        }
        tokens.push(i64::from(token));
    }
    let answer: Vec<u32> = tokens[prompt..].iter().map(|&t| t as u32).collect();
    println!("\n{}", tokenizer.decode(&answer)?);
    Ok(())
}
