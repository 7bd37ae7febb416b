//! Compares an encoder with PyTorch's results and benchmarks it over batch sizes and sequence lengths.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example bert_comparison
//! ```

use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor};
use clap::Parser;

#[path = "support/encoder.rs"]
#[allow(dead_code, reason = "shared by several examples")]
mod encoder;

/// Compare an encoder with PyTorch's results and benchmark it.
#[derive(Parser)]
struct Args {
    /// Folder with a package, tokenizer.json and reference.safetensors.
    #[arg(long, default_value = encoder::SHIPPED)]
    model: PathBuf,
    /// Predictions per measurement; the fastest counts.
    #[arg(long, default_value_t = 10)]
    repeat: usize,
    /// Batch sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    batch: Vec<usize>,
    /// Sequence lengths.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 16, 48])]
    length: Vec<usize>,
}

fn main() -> candle_coreml::Result<()> {
    let args = Args::parse();
    let encoder = encoder::Encoder::load(&args.model)?;
    compare(&encoder, &args)?;
    measure(&encoder, &args)
}

/// Maximum difference between each output and PyTorch's for the same ids.
fn compare(encoder: &encoder::Encoder, args: &Args) -> candle_coreml::Result<()> {
    let reference = candle_core::safetensors::load(args.model.join("reference.safetensors"), &Device::Cpu)?;
    let mut batches: Vec<&str> = reference.keys().filter_map(|k| k.strip_suffix(".input_ids")).collect();
    batches.sort_unstable();
    for batch in batches {
        let given = |name: &str| {
            let tensor = reference.get(&format!("{batch}.{name}"));
            tensor.ok_or_else(|| candle_coreml::Error::Request(format!("the reference has no `{batch}.{name}`")))
        };
        let ids = given("input_ids")?;
        for (name, found) in encoder.forward(ids, given("attention_mask")?)? {
            let difference = (found - given(&name)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
            println!("{batch:<8} {:?} {name:<14} largest difference to PyTorch {difference:.5}", ids.dims());
        }
    }
    Ok(())
}

/// Fastest prediction for each size.
fn measure(encoder: &encoder::Encoder, args: &Args) -> candle_coreml::Result<()> {
    println!("\nsentences  tokens   milliseconds   sentences/s");
    for &batch in &args.batch {
        for &length in &args.length {
            let ids = Tensor::full(5i64, (batch, length), &Device::Cpu)?;
            let mask = ids.ones_like()?;
            let mut fastest = f64::INFINITY;
            for _ in 0..args.repeat.max(1) {
                let started = Instant::now();
                encoder.forward(&ids, &mask)?;
                fastest = fastest.min(started.elapsed().as_secs_f64());
            }
            println!("{batch:>9}  {length:>6}   {:>12.3}   {:>11.0}", 1e3 * fastest, batch as f64 / fastest);
        }
    }
    Ok(())
}
