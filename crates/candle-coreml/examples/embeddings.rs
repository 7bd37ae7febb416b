//! Sentence embeddings: mean-pooled hidden states of an encoder, compared by cosine similarity.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example embeddings
//! ```

use std::path::PathBuf;

use candle_core::{DType, Result, Tensor};
use clap::Parser;

#[path = "support/encoder.rs"]
#[allow(dead_code, reason = "shared by several examples")]
mod encoder;

/// Compare sentences by their embeddings.
#[derive(Parser)]
struct Args {
    /// Folder with a package and tokenizer.json.
    #[arg(long, default_value = encoder::SHIPPED)]
    model: PathBuf,
    /// Output with the hidden states, [texts, tokens, hidden].
    #[arg(long, default_value = "hidden_states")]
    output: String,
    /// Sentences; default: a few built-in ones.
    texts: Vec<String>,
}

const TEXTS: [&str; 4] = [
    "Will it snow in Helsinki tonight?",
    "Give me the forecast for Lima.",
    "Put on quiet music to fall asleep, please.",
    "I want to hear jazz in the kitchen.",
];

/// Unit vectors `[texts, hidden]`: the mean over the tokens kept by the mask `[texts, tokens]`.
fn pool(hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
    let sum = hidden.to_dtype(DType::F32)?.broadcast_mul(&mask)?.sum(1)?;
    let mean = sum.broadcast_div(&mask.sum(1)?)?;
    mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)
}

fn main() -> candle_coreml::Result<()> {
    let args = Args::parse();
    let encoder = encoder::Encoder::load(&args.model)?;
    let texts: Vec<&str> =
        if args.texts.is_empty() { TEXTS.to_vec() } else { args.texts.iter().map(|t| &**t).collect() };

    let hidden = encoder.output(&args.output, &texts)?;
    let (_, mask) = encoder.batch(&texts)?;
    let embeddings = pool(&hidden, &mask)?;
    println!("{} embeddings of {} numbers", embeddings.dim(0)?, embeddings.dim(1)?);

    let cosine = embeddings.matmul(&embeddings.t()?)?.to_vec2::<f32>()?;
    for (text, row) in texts.iter().zip(&cosine) {
        let row: Vec<String> = row.iter().map(|c| format!("{c:6.3}")).collect();
        println!("{}  {text}", row.join(" "));
    }
    Ok(())
}
