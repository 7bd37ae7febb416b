//! Prefill and decode tokens per second of a language model.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example qwen_benchmark -- --prompt 128 --decode 64
//! ```

use std::path::PathBuf;
use std::time::Instant;

use candle_coreml::generation::{Options, Summary};
use candle_coreml::{Error, QwenModel, Result};
use clap::Parser;

/// Measure prefill and decode tokens per second of a language model.
#[derive(Parser)]
struct Args {
    /// Folder with the components and the tokenizer.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3"))]
    model: PathBuf,
    /// Number of prompt tokens.
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    /// Number of tokens to generate.
    #[arg(long, default_value_t = 64)]
    decode: usize,
    /// Number of runs; the slowest, median and fastest are shown.
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let started = Instant::now();
    let mut model = QwenModel::load_from_directory(&args.model, None)?;
    let sizes = model.pipeline().dimensions();
    println!("load      {:.3} s", started.elapsed().as_secs_f64());
    println!("model     context {}, prefill batch {}, vocabulary {}", sizes.context, sizes.batch, sizes.vocab);
    if args.prompt == 0 || args.decode == 0 || args.prompt + args.decode > sizes.context {
        return Err(Error::Request(format!(
            "{} prompt tokens and {} new ones: need at least one of each, {} together",
            args.prompt, args.decode, sizes.context
        )));
    }

    // Any ids do: speed does not depend on them. They are forced, so no run ends early.
    let ids = |count: usize| (0..count).map(|i| (i * 31 % sizes.vocab.min(1000)) as u32).collect::<Vec<_>>();
    let prompt = ids(args.prompt);
    let mut runs: Vec<Summary> = Vec::new();
    for _ in 0..args.runs.max(1) {
        model.reset_states();
        let options = Options { force: ids(args.decode), ..Options::default() };
        runs.push(model.generate_tokens(&prompt, options, |_| {})?);
    }
    report("prefill", args.prompt, runs.iter().map(Summary::prefill_rate));
    report("decode", args.decode, runs.iter().map(Summary::decode_rate));
    Ok(())
}

fn report(what: &str, tokens: usize, rates: impl Iterator<Item = f64>) {
    let mut rates: Vec<f64> = rates.collect();
    rates.sort_by(f64::total_cmp);
    let (slowest, middle, fastest) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
    println!("{what:<9} {tokens} tokens: {middle:.0} tokens/s ({slowest:.0} to {fastest:.0})");
}
