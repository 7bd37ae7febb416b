//! The conversation with its model: answers lines.

use std::io::Write;

use candle_coreml::backend::{CancelHandle, FallbackGenerator, TextGeneration};
use candle_coreml::generation::{Message, Options, StopReason};

use super::command::{self, Request};
use super::conversation::Conversation;
use super::interrupt::Answering;

/// What comes after a line.
#[derive(Debug, PartialEq)]
pub(super) enum After {
    Go,
    Quit,
}

pub(super) struct Session {
    generator: FallbackGenerator,
    conversation: Conversation,
    pub(super) options: Options,
    /// Whether answers are printed as they come.
    pub(super) streaming: bool,
    terminal: bool,
    /// Fallbacks that were told already.
    told: usize,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

impl Session {
    pub(super) fn new(generator: FallbackGenerator, conversation: Conversation, terminal: bool) -> Self {
        Self { generator, conversation, options: Options::default(), streaming: true, terminal, told: 0 }
    }

    pub(super) fn cancel_handle(&self) -> CancelHandle {
        self.generator.cancel_handle()
    }

    /// Something beside the conversation.
    pub(super) fn note(&self, text: &str) {
        // Without a place to write it, there is nobody to read it.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// What the user should know at the beginning.
    pub(super) fn greet(&mut self) {
        self.tell_fallbacks();
        if self.terminal {
            let info = self.generator.info();
            self.note(&format!(
                "{} on {} ({}, {}), context of {} tokens; /help lists the commands",
                info.model.display(),
                info.device,
                info.engine,
                info.dtype,
                info.context
            ));
        }
    }

    fn tell_fallbacks(&mut self) {
        for fallback in &self.generator.history()[self.told..] {
            self.note(&format!("{fallback}"));
        }
        self.told = self.generator.history().len();
    }

    /// Does what a line asks for.
    pub(super) fn line(&mut self, line: &str) -> Outcome<After> {
        let mut out = std::io::stdout();
        match command::parse(line)? {
            Request::Empty => {}
            Request::Message(text) => return self.answer(text),
            Request::Quit => return Ok(After::Quit),
            Request::Help => {
                for (usage, what) in command::HELP {
                    writeln!(out, "{usage:22}{what}")?;
                }
            }
            Request::Reset => {
                self.conversation.reset();
                self.generator.reset();
            }
            Request::System(None) => writeln!(out, "{}", self.conversation.system().unwrap_or("(none)"))?,
            Request::System(Some(text)) => self.conversation.set_system((text != "none").then_some(text)),
            Request::Stats => self.stats(&mut out)?,
            Request::Save(file) => self.conversation.save(&file)?,
            Request::Load(file) => self.conversation = Conversation::load(&file)?,
            Request::Think(mode) => self.options.thinking = mode,
        }
        Ok(After::Go)
    }

    /// Answers a message and prints the answer as it comes.
    fn answer(&mut self, text: String) -> Outcome<After> {
        self.conversation.push(Message::user(text));
        let (cancel, streaming) = (self.generator.cancel_handle(), self.streaming);
        let (mut printed, mut broken) = (0, false);
        let mut out = std::io::stdout().lock();
        // A Ctrl-C that came too late for the last answer is not meant for this one.
        cancel.clear();
        let answering = Answering::begin();
        let result = self.generator.chat(self.conversation.messages(), self.options.clone(), &mut |step| {
            if !streaming {
                return;
            }
            printed += step.text.len();
            if out.write_all(step.text.as_bytes()).and_then(|()| out.flush()).is_err() {
                broken = true;
                cancel.cancel();
            }
        });
        drop(answering);
        self.tell_fallbacks();
        if broken {
            // Nobody listens, as after `| head`: nothing more need be computed.
            return Ok(After::Quit);
        }
        let summary = match result {
            Ok(summary) => summary,
            Err(e) => {
                if printed > 0 {
                    writeln!(out)?;
                }
                self.conversation.pop();
                return Err(e.into());
            }
        };
        writeln!(out, "{}", summary.text.get(printed..).unwrap_or_default())?;
        match summary.stop_reason {
            StopReason::Cancelled => self.note("(stopped)"),
            StopReason::MaxTokens => self.note("(the limit of --max-tokens)"),
            _ => {}
        }
        self.conversation.push(Message::assistant(summary.text));
        self.after_answer();
        Ok(After::Go)
    }

    /// What happened besides the text; on a terminal also how fast.
    fn after_answer(&self) {
        let stats = self.generator.stats();
        let Some(turn) = stats.last else { return };
        if turn.dropped_messages > 0 {
            self.note(&format!("(the {} oldest messages do not fit the context)", turn.dropped_messages));
        }
        if self.terminal {
            self.note(&format!(
                "[{} tokens, {:.1} tokens/s, context {} of {}]",
                turn.generated_tokens,
                turn.decode_rate(),
                stats.context_used,
                self.generator.info().context
            ));
        }
    }

    fn stats(&self, out: &mut impl Write) -> std::io::Result<()> {
        let (info, stats) = (self.generator.info(), self.generator.stats());
        writeln!(out, "model: {}", info.model.display())?;
        writeln!(out, "device: {} ({}, {})", info.device, info.engine, info.dtype)?;
        for fallback in self.generator.history() {
            writeln!(out, "given up: {fallback}")?;
        }
        writeln!(out, "context: {} of {} tokens", stats.context_used, info.context)?;
        writeln!(out, "answers: {}, tokens: {}", stats.turns, stats.generated_tokens)?;
        if let Some(turn) = stats.last {
            let (run, all) = (turn.prefilled_tokens, turn.prompt_tokens);
            writeln!(out, "prefilled: {run} of {all} prompt tokens, {:.1} tokens/s", turn.prefill_rate())?;
            writeln!(out, "generated: {} tokens, {:.1} tokens/s", turn.generated_tokens, turn.decode_rate())?;
        }
        Ok(())
    }
}
