//! A conversation of several turns; the KV cache keeps what was said.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example qwen_chat
//! ```
//!
//! Questions come from standard input, a line each. `/reset` starts anew, an empty line or the end of input ends.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use candle_coreml::generation::{Message, Options, Sampling};
use candle_coreml::{Error, QwenConfig, QwenModel, Result};
use clap::Parser;

/// A conversation of several turns.
#[derive(Parser)]
struct Args {
    /// Folder with the components and the tokenizer.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3"))]
    model: PathBuf,
    /// What the model is told first. (The model that ships was trained without such a message.)
    #[arg(long)]
    system: Option<String>,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Lets a thinking model think first, or forbids it.
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

/// Answers the last message and prints the answer while it comes.
fn turn(model: &mut QwenModel, messages: &[Message], options: &Options) -> Result<String> {
    let mut printed = 0;
    let summary = model.chat(messages, options.clone(), |step| {
        print!("{}", step.text);
        printed += step.text.len();
        flush();
    })?;
    println!("{}", &summary.text[printed..]);
    // Only what the cache did not hold yet went through prefill.
    eprintln!("[{} prompt tokens run, {:.0} tokens/s]", summary.prefill_tokens, summary.decode_rate());
    Ok(summary.text)
}

fn flush() {
    // A closed pipe shows at the next line of text; nothing is lost here.
    std::io::stdout().flush().ok();
}
