//! `candle-coreml convert`: Hugging Face checkpoints to Core ML packages.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use candle_coreml::Task;
use candle_coreml::convert::{Anemll, Encoder, Layout, Lut, Stateful, convert};

use crate::{CommandResult, progress};

const EXAMPLES: &str = "\
Examples:
  candle-coreml convert Qwen3-0.6B --to anemll --out qwen --context 512 --batch 64 --chunks 2
  candle-coreml convert Qwen3-0.6B --to anemll --out qwen --lut-ffn 6 --lut-head 6
  candle-coreml convert gemma-3-270m-it --to anemll --out gemma --monolithic --argmax --lut-ffn 4,8
  candle-coreml convert Llama-3.2-1B --to stateful --out llama --context 2048
  candle-coreml convert sentence-transformers/all-MiniLM-L6-v2 --to encoder --out minilm
  candle-coreml convert cross-encoder/ms-marco-MiniLM-L6-v2 --to encoder --out ranker
  candle-coreml generate --model qwen --prompt \"Hello\"";

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Target {
    /// ANEMLL's layout: embeddings, chunks, head; or one file with --monolithic.
    Anemll,
    /// Apple's stateful layout: one file with keyCache and valueCache.
    Stateful,
    /// One file for an encoder of texts: BERT, RoBERTa, DistilBERT, MPNet, sentence-transformers; with their heads, classifiers of
    /// texts or tokens.
    Encoder,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder with config.json, *.safetensors and the tokenizer, or org/name on the Hugging Face Hub: Qwen 2.5, Qwen 3, Llama 3,
    /// Mistral, Gemma 3; encoders and classifiers.
    source: PathBuf,
    /// Layout of the result.
    #[arg(long, value_enum, default_value = "anemll")]
    to: Target,
    /// The new folder. It appears when it is complete; an interrupted conversion goes on where it was.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Context length [default: 512]; of encoders the longest text [default: that of the checkpoint].
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens of a prefill [default: 64] (anemll); most texts of a prediction [default: 32] (encoder).
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Files of layers (anemll).
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "monolithic")]
    chunks: usize,
    /// One file with embeddings, layers and head (anemll).
    #[arg(long)]
    monolithic: bool,
    /// The head returns the largest logits only, for greedy generation (anemll).
    #[arg(long)]
    argmax: bool,
    /// Tables for the embeddings: `BITS`, or `BITS,CHANNELS` of a group; 0 channels: one table for a tensor.
    #[arg(long, value_name = "BITS[,N]", value_parser = lut)]
    lut_embeddings: Option<Lut>,
    /// Tables for the layers.
    #[arg(long, value_name = "BITS[,N]", value_parser = lut)]
    lut_ffn: Option<Lut>,
    /// Tables for the head.
    #[arg(long, value_name = "BITS[,N]", value_parser = lut)]
    lut_head: Option<Lut>,
    /// Prefix of the files (anemll) [default: that of the family].
    #[arg(long, value_name = "NAME", value_parser = name)]
    prefix: Option<String>,
    /// Parts of the logits (anemll) [default: 16; 8 for Llama and Mistral].
    #[arg(long, value_name = "N")]
    split_head: Option<usize>,
    /// Functions that rotate local caches in files of their own (anemll, Gemma 3).
    #[arg(long)]
    split_rotate: bool,
    /// One cache for all layers, for contexts within the window (anemll, Gemma 3).
    #[arg(long)]
    single_cache: bool,
    /// Prefill writes the cache where a mask says, as before ANEMLL 0.3.5.
    #[arg(long)]
    static_prefill: bool,
    /// Tokens of the cache [default: the context] (anemll).
    #[arg(long, value_name = "N")]
    state_length: Option<usize>,
    /// Shorter contexts, with functions of their own: a state-transition package (anemll).
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    contexts: Vec<usize>,
    #[command(flatten)]
    consent: crate::model::Consent,
    /// Say nothing while it runs.
    #[arg(long, short)]
    quiet: bool,
}

/// Tables for groups of eight channels unless a number says otherwise, as in ANEMLL's converter.
fn lut(text: &str) -> Result<Lut, String> {
    let (bits, group) = text.split_once(',').unwrap_or((text, "8"));
    let number = |s: &str| s.parse::<usize>().map_err(|_| "expected bits, or bits and channels such as 4,8".to_owned());
    Ok(Lut { bits: number(bits)?, group: Some(number(group)?).filter(|g| *g > 0) })
}

fn name(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { Ok(text.to_owned()) } else { Err("expected letters, digits and `_`".to_owned()) }
}

/// The layout that the options describe; those of other layouts are refused.
fn layout(a: &Arguments) -> Result<Layout, String> {
    let context = a.context.unwrap_or(512);
    let of_anemll = [
        ("--monolithic", a.monolithic),
        ("--argmax", a.argmax),
        ("--chunks", a.chunks != 1),
        ("--lut-head", a.lut_head.is_some()),
        ("--prefix", a.prefix.is_some()),
        ("--split-head", a.split_head.is_some()),
        ("--split-rotate", a.split_rotate),
        ("--single-cache", a.single_cache),
        ("--static-prefill", a.static_prefill),
        ("--state-length", a.state_length.is_some()),
        ("--contexts", !a.contexts.is_empty()),
    ];
    let only = |target: &str, more: &[(&str, bool)]| match of_anemll.iter().chain(more).find(|(_, given)| *given) {
        Some((option, _)) => Err(format!("{option} does not go with --to {target}")),
        None => Ok(()),
    };
    Ok(match a.to {
        Target::Anemll => Anemll {
            context,
            batch: a.batch.unwrap_or(64).min(context),
            chunks: a.chunks,
            monolithic: a.monolithic,
            argmax: a.argmax,
            lut_embeddings: a.lut_embeddings,
            lut_ffn: a.lut_ffn,
            lut_head: a.lut_head,
            prefix: a.prefix.clone(),
            parts: a.split_head,
            split_rotate: a.split_rotate,
            single_cache: a.single_cache,
            static_slices: a.static_prefill,
            state_length: a.state_length,
            contexts: a.contexts.clone(),
        }
        .into(),
        Target::Stateful => {
            only("stateful", &[("--batch", a.batch.is_some()), ("--lut-embeddings", a.lut_embeddings.is_some())])?;
            Stateful { context, lut: a.lut_ffn }.into()
        }
        Target::Encoder => {
            only("encoder", &[])?;
            let (length, batch) = (a.context, a.batch.unwrap_or(32));
            Encoder { length, batch, lut: a.lut_ffn, lut_embeddings: a.lut_embeddings }.into()
        }
    })
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let a = arguments;
    let layout = layout(&a)?;
    let source = crate::model::folder(&a.source, a.consent)?;
    let terminal = std::io::stderr().is_terminal();
    let (quiet, started) = (a.quiet, Instant::now());
    let task = Task::with_progress(move |step| {
        let left =
            started.elapsed().as_secs_f64() / step.done.max(1) as f64 * step.total.saturating_sub(step.done) as f64;
        if !quiet {
            progress::show(terminal, format_args!("{step}  {left:.0} s left"));
        }
    });
    let result = task.run(|| convert(&source, &layout, &a.out));
    if terminal && !a.quiet {
        note!("");
    }
    result?;
    out!("{}", a.out.display())?;
    Ok(())
}
