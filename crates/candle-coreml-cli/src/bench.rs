//! `candle-coreml bench`: how fast a language model runs here.

use std::path::PathBuf;
use std::time::Instant;

use candle_coreml::anemll::Pipeline;
use serde_json::json;

use crate::{CommandResult, model};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder with the model's components, or a model of the hub, org/name[@revision]; no tokenizer is needed.
    #[arg(long)]
    model: PathBuf,
    /// Length of the prompt; also the position at which decoding starts.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Tokens to decode.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Runs of each measurement; the best one counts, as the machine may be busy.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// The largest resident size of this process in bytes, where the system tells: all, and what is not files.
fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let read = |key: &str| -> Option<u64> {
        let line = status.lines().find(|l| l.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((read("VmHWM:")?, read("RssAnon:")?))
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let folder = model::folder(&arguments.model)?;
    let started = Instant::now();
    let pipeline = Pipeline::load(&folder)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let dimensions = pipeline.dimensions();
    let vocab = dimensions.vocab as u32;
    let prompt: Vec<u32> = (0..arguments.prompt as u32).map(|i| (i * 7919 + 13) % vocab).collect();
    let mut session = pipeline.session()?;
    // Decoding forgets its tokens afterwards, so that each run does the same work.
    pipeline.feed(&mut session, &prompt)?;
    let first_token_seconds = started.elapsed().as_secs_f64();
    let (mut prefill, mut decode) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..arguments.runs.max(1) {
        session.truncate(0);
        let started = Instant::now();
        pipeline.feed(&mut session, &prompt)?;
        prefill = prefill.min(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for i in 0..arguments.tokens as u32 {
            pipeline.feed(&mut session, &[(i * 104_729 + 7) % vocab])?;
        }
        decode = decode.min(started.elapsed().as_secs_f64());
    }
    let (prefill_rate, decode_rate) = (arguments.prompt as f64 / prefill, arguments.tokens as f64 / decode);
    let memory = memory();
    if arguments.json {
        let report = json!({
            "dimensions": dimensions,
            "load_seconds": load_seconds,
            "first_token_seconds": first_token_seconds,
            "prompt": arguments.prompt,
            "prefill_tokens_per_second": prefill_rate,
            "decode_tokens_per_second": decode_rate,
            "peak_resident_bytes": memory.map(|m| m.0),
            "anonymous_bytes": memory.map(|m| m.1),
        });
        println!("{report}");
        return Ok(());
    }
    println!("load           {load_seconds:>10.3} s");
    println!("first token    {first_token_seconds:>10.3} s");
    println!("prefill        {prefill_rate:>10.1} tokens/s ({} tokens)", arguments.prompt);
    println!("decode         {decode_rate:>10.1} tokens/s (from position {})", arguments.prompt);
    if let Some((peak, anonymous)) = memory {
        println!(
            "peak memory    {:>10.1} MiB resident, {:.1} MiB beside the mapped files",
            peak as f64 / 1048576.0,
            anonymous as f64 / 1048576.0
        );
    }
    Ok(())
}
