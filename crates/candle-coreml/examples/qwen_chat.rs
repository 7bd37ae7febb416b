//! Multi-turn chat; the KV cache keeps earlier turns.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example qwen_chat
//! ```
//!
//! Reads questions from standard input, one per line. `/reset` starts over; an empty line or the end of input quits.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use candle_coreml::generation::{Message, Options, Sampling};
use candle_coreml::{Error, QwenConfig, QwenModel, Result};
use clap::Parser;

/// Chat with a language model.
#[derive(Parser)]
struct Args {
    /// Folder with the components and the tokenizer.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3"))]
    model: PathBuf,
    /// System message (the shipped model was trained without one).
    #[arg(long)]
    system: Option<String>,
    /// Sampling temperature; 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Maximum number of tokens per answer.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Enable or disable the reasoning of a thinking model.
    #[arg(long)]
    thinking: Option<bool>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let config = QwenConfig { thinking: args.thinking, ..QwenConfig::default() };
    let mut model = QwenModel::load_from_directory(&args.model, Some(config))?;
    let sampling = Sampling { temperature: args.temperature, ..Sampling::default() };
    let options = Options { max_tokens: args.max_tokens, sampling, ..Options::default() };
    let system: Vec<Message> =
        args.system.into_iter().map(|content| Message { role: "system".to_owned(), content }).collect();

    let terminal = std::io::stdin().is_terminal();
    let mut messages = system.clone();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            print!("> ");
            flush();
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(|source| Error::Io { path: "standard input".into(), source })?;
        match line.trim() {
            "" => return Ok(()),
            "/reset" => {
                messages.clone_from(&system);
                model.reset_states();
            }
            question => {
                messages.push(Message::user(question));
                let answer = turn(&mut model, &messages, &options)?;
                messages.push(Message::assistant(answer));
            }
        }
    }
}

/// Answers the last message and streams the answer to the terminal.
fn turn(model: &mut QwenModel, messages: &[Message], options: &Options) -> Result<String> {
    let mut printed = 0;
    let summary = model.chat(messages, options.clone(), |step| {
        print!("{}", step.text);
        printed += step.text.len();
        flush();
    })?;
    println!("{}", &summary.text[printed..]);
    // Only uncached tokens went through prefill.
    eprintln!("[{} prompt tokens run, {:.0} tokens/s]", summary.prefill_tokens, summary.decode_rate());
    Ok(summary.text)
}

fn flush() {
    // A closed pipe shows at the next line of text; no output is lost here.
    std::io::stdout().flush().ok();
}
