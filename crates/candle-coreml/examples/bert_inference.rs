//! Classifies the intent of sentences with a BERT encoder.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example bert_inference -- "Will it rain in Oslo tomorrow?"
//! ```

use std::path::PathBuf;

use candle_core::D;
use clap::Parser;

#[path = "support/encoder.rs"]
#[allow(dead_code, reason = "shared by several examples")]
mod encoder;

/// Classify the intent of sentences with a BERT encoder.
#[derive(Parser)]
struct Args {
    /// Folder with a package, tokenizer.json and config.json.
    #[arg(long, default_value = encoder::SHIPPED)]
    model: PathBuf,
    /// Sentences; default: a few built-in ones.
    texts: Vec<String>,
}

const TEXTS: [&str; 5] = [
    "Will it rain in Oslo tomorrow?",
    "Play some blues for a walk.",
    "Set a timer for 12 minutes.",
    "Turn on the lights in the kitchen right now.",
    "Good morning, Ada!",
];

fn main() -> candle_coreml::Result<()> {
    let args = Args::parse();
    let encoder = encoder::Encoder::load(&args.model)?;
    let texts: Vec<&str> =
        if args.texts.is_empty() { TEXTS.to_vec() } else { args.texts.iter().map(|t| &**t).collect() };

    // One call for all sentences: `[texts, labels]`.
    let logits = encoder.output("logits", &texts)?;
    let largest = logits.max_keepdim(D::Minus1)?;
    let weights = logits.broadcast_sub(&largest)?.exp()?;
    let probabilities = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_vec2::<f32>()?;

    for (text, row) in texts.iter().zip(&probabilities) {
        let (best, share) = row.iter().enumerate().fold((0, 0.0), |b, (i, &p)| if p > b.1 { (i, p) } else { b });
        let label = encoder.labels.get(best).map_or_else(|| best.to_string(), Clone::clone);
        println!("{label:<10} {:5.1} %  {text}", 100.0 * share);
    }
    Ok(())
}
