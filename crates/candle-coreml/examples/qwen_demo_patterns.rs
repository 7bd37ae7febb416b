//! Ways to generate text: one call, sampling, an iterator, a callback, stop texts and cancellation.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example qwen_demo_patterns
//! ```

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use candle_coreml::generation::{Message, Options, Sampling};
use candle_coreml::{QwenModel, Result};
use clap::Parser;

/// Generate text in several ways.
#[derive(Parser)]
struct Args {
    /// Folder with the components and the tokenizer.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3"))]
    model: PathBuf,
    /// Question.
    #[arg(long, default_value = "What is the capital of Japan?")]
    prompt: String,
    /// Maximum number of tokens per answer.
    #[arg(long, default_value_t = 32)]
    max_tokens: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut model = QwenModel::load_from_directory(&args.model, None)?;
    // The prompt of a chat model: the question in its template's markup.
    let prompt = model.chat_text(&[Message::user(&args.prompt)])?;
    let options = Options { max_tokens: args.max_tokens, ..Options::default() };

    greedy(&mut model, &prompt, &options)?;
    sampled(&mut model, &prompt, &options)?;
    iterator(&mut model, &prompt, &options)?;
    callback(&mut model, &args.prompt, &options)?;
    stopped(&mut model, &prompt, &options)?;
    cancelled(&mut model, &prompt, &options)
}

/// One call, temperature 0: always the most likely token.
fn greedy(model: &mut QwenModel, prompt: &str, options: &Options) -> Result<()> {
    println!("greedy:    {}", model.generate(prompt, options.max_tokens, 0.0)?);
    Ok(())
}

/// Random sampling; the same seed gives the same text.
fn sampled(model: &mut QwenModel, prompt: &str, options: &Options) -> Result<()> {
    let ids = model.tokenize(prompt)?;
    for seed in [1, 2, 1] {
        let sampling = Sampling { temperature: 0.8, top_k: 20, top_p: 0.95, seed, ..Sampling::default() };
        let summary = model.generate_tokens(&ids, Options { sampling, ..options.clone() }, |_| {})?;
        println!("seed {seed}:    {}", summary.text);
    }
    Ok(())
}

/// Pieces of text from an iterator, which can be dropped at any time.
fn iterator(model: &mut QwenModel, prompt: &str, options: &Options) -> Result<()> {
    let ids = model.tokenize(prompt)?;
    print!("iterator: ");
    let mut stream = model.stream(&ids, options.clone());
    for step in &mut stream {
        print!(" [{}]", step?.text);
        flush();
    }
    // The summary includes text held back for a stop text or a partial character.
    println!(" ({:?})", stream.finish().stop_reason);
    Ok(())
}

/// Pieces of text in a closure; the model applies its chat template.
fn callback(model: &mut QwenModel, question: &str, options: &Options) -> Result<()> {
    print!("callback:  ");
    let summary = model.chat(&[Message::user(question)], options.clone(), |step| {
        print!("{}", step.text);
        flush();
    })?;
    println!(" ({} tokens, {:?})", summary.tokens.len(), summary.stop_reason);
    Ok(())
}

/// Stops at a stop text, which is excluded from the result.
fn stopped(model: &mut QwenModel, prompt: &str, options: &Options) -> Result<()> {
    let ids = model.tokenize(prompt)?;
    let options = Options { stop: vec!["ky".to_owned()], ..options.clone() };
    let summary = model.generate_tokens(&ids, options, |_| {})?;
    println!("stop `ky`: {} ({:?})", summary.text, summary.stop_reason);
    Ok(())
}

/// A flag that any thread may set stops generation at the next token.
fn cancelled(model: &mut QwenModel, prompt: &str, options: &Options) -> Result<()> {
    let ids = model.tokenize(prompt)?;
    let options = Options { cancel: std::sync::Arc::default(), ..options.clone() };
    let flag = options.cancel.clone();
    let summary = model.generate_tokens(&ids, options, |_| flag.store(true, Ordering::Relaxed))?;
    println!("cancelled: {} ({:?})", summary.text, summary.stop_reason);
    Ok(())
}

fn flush() {
    // A closed pipe shows at the next line of text; no output is lost here.
    std::io::stdout().flush().ok();
}
