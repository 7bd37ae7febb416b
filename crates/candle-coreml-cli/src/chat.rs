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
    let mut session = Session::open(settings, conversation, cancel, input.is_terminal(), arguments.model.consent)?;
    session.options.max_tokens = arguments.max_tokens;
    session.options.thinking = arguments.thinking;
    session.greet();
    let mut failures = 0;
    loop {
        let line = match input.next()? {
            Line::Text(line) => line,
            Line::Interrupted => {
                note("/quit or Ctrl-D leaves");
                continue;
            }
            Line::End => break,
        };
        // The model may have changed.
        session.options.sampling = arguments.sampling.sampling(&session.recommended());
        session.options.lookup = arguments.sampling.lookup();
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
