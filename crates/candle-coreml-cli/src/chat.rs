//! `candle-coreml chat`: a conversation with a language model, on a terminal or through pipes.
//!
//! Answers and command output go to standard output, everything else to standard error.

use std::path::PathBuf;

use candle_coreml::backend::CancelHandle;

use crate::sampling::SamplingArguments;
use crate::settings::ModelArguments;
use crate::{CommandResult, setup};

mod command;
mod conversation;
mod input;
mod interrupt;
mod markdown;
mod remote;
mod session;
mod show;

use conversation::Conversation;
use input::{Input, Line};
use session::{After, Session, note};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Start with this system message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue a conversation saved with `/save`.
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Generate at most this many tokens per answer.
    #[arg(long, default_value_t = 1024)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Turn the thinking mode of the chat template on or off.
    #[arg(long, value_name = "true|false")]
    thinking: Option<bool>,
}

/// Begins and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// The message that a line with quotes begins; `None` if it was interrupted.
fn several_lines(input: &mut Input, first: &str) -> Result<Option<String>, Box<dyn std::error::Error>> {
    let mut text = first.trim_start()[QUOTES.len()..].to_owned();
    loop {
        if let Some(whole) = text.trim_end().strip_suffix(QUOTES) {
            return Ok(Some(whole.trim_matches('\n').to_owned()));
        }
        if text.len() > input::LONGEST as usize {
            return Err(format!("a message is longer than {} bytes", input::LONGEST).into());
        }
        match input.next()? {
            Line::Text(line) => {
                text.push_str(if text.ends_with('\n') || text.is_empty() { "" } else { "\n" });
                text.push_str(&line);
            }
            Line::Interrupted => return Ok(None),
            Line::End => return Err("the message that begins with \"\"\" does not end".into()),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let mut conversation = match &arguments.load {
        Some(file) => Conversation::load(file)?,
        None => Conversation::default(),
    };
    if let Some(system) = &arguments.system {
        conversation.set_system(Some(system.clone()));
    }
    let mut input = Input::open();
    if input.is_terminal() {
        setup::offer(&arguments.model)?;
    }
    let settings = arguments.model.settings()?;
    let cancel = CancelHandle::default();
    interrupt::install(cancel.clone())?;
    let mut session = Session::open(
        settings,
        conversation,
        cancel,
        input.is_terminal(),
        arguments.model.consent,
        arguments.sampling.clone(),
    )?;
    session.options.max_tokens = arguments.max_tokens;
    session.options.thinking = arguments.thinking;
    session.greet();
    let mut failures = 0;
    loop {
        let line = match input.next()? {
            Line::Text(line) if line.trim_start().starts_with(QUOTES) => match several_lines(&mut input, &line)? {
                Some(text) => Input::message(&text),
                None => continue,
            },
            Line::Text(line) => line,
            Line::Interrupted => {
                note("/quit or Ctrl-D leaves");
                continue;
            }
            Line::End => break,
        };
        // The model may have changed.
        session.options.sampling = session.sampling.sampling(&session.recommended());
        session.options.lookup = session.sampling.lookup();
        match session.line(&line) {
            Ok(After::Go) => {}
            Ok(After::Quit) => break,
            Ok(After::Unwritten(e)) => return Err(format!("the answer could not be written: {e}").into()),
            Err(e) => {
                note(&format!("error: {}", crate::chain(e.as_ref())));
                failures += 1;
            }
        }
    }
    // On a terminal the user has seen it; a script needs the exit code.
    if failures > 0 && !input.is_terminal() {
        return Err(format!("{failures} of the lines failed").into());
    }
    Ok(())
}
