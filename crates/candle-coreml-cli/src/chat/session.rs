//! A conversation with its model: processes input lines.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use candle_coreml::Error;
use candle_coreml::backend::{CancelHandle, FallbackGenerator, GeneratorInfo, TextGeneration};
use candle_coreml::generation::{Message, Options, Progress, Recommended, StopReason, Summary};
use candle_coreml::settings::Settings;

use super::command::{self, Request};
use super::conversation::Conversation;
use super::interrupt::Working;
use super::remote::Remote;
use super::show;
use crate::model::{self, Consent};
use crate::progress_monitor::{Limits, Pause, Watch, Watching};
use crate::sampling::SamplingArguments;

/// Next action after a line.
#[derive(Debug)]
pub(super) enum After {
    Go,
    Quit,
    /// The answer could not be written.
    Unwritten(std::io::Error),
}

pub(super) struct Session {
    /// `None` while only the remote model can answer.
    local: Option<FallbackGenerator>,
    remote: Remote,
    settings: Settings,
    conversation: Conversation,
    pub(super) options: Options,
    pub(super) sampling: SamplingArguments,
    terminal: bool,
    consent: Consent,
    cancel: CancelHandle,
    pause: Arc<Pause>,
    /// Number of fallbacks already reported.
    told: usize,
}

pub(super) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Returns true if every local device has failed.
fn is_exhausted(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(Error::NoBackend { .. }))
}

/// Prints a note to standard error.
pub(super) fn note(text: &str) {
    note!("{text}");
}

impl Session {
    /// Loads the configured model; falls back to the remote model if no device can run it and the settings allow it.
    pub(super) fn open(
        settings: Settings,
        conversation: Conversation,
        cancel: CancelHandle,
        terminal: bool,
        consent: Consent,
        sampling: SamplingArguments,
    ) -> Outcome<Self> {
        let remote = Remote::new(&settings, cancel.clone());
        let (options, pause) = (Options::default(), Arc::default());
        let mut session = Self {
            local: None,
            remote,
            settings,
            conversation,
            options,
            sampling,
            terminal,
            consent,
            cancel,
            pause,
            told: 0,
        };
        match session.load(&session.settings) {
            Ok(generator) => session.take(generator),
            Err(e) if session.remote.is_allowed() && is_exhausted(e.as_ref()) => {
                note(&crate::chain(e.as_ref()));
                session.remote.turn_on()?;
            }
            Err(e) => return Err(e),
        }
        Ok(session)
    }

    /// Loads a model, monitored.
    fn load(&self, settings: &Settings) -> Outcome<FallbackGenerator> {
        let watch = Watch::new(Limits::default(), "loading the model", "");
        let _watching = Watching::begin(watch, Arc::default(), self.pause.clone());
        model::open(settings, self.pause.clone(), self.consent)
    }

    /// Switches to a loaded model.
    fn take(&mut self, mut generator: FallbackGenerator) {
        generator.set_cancel_handle(self.cancel.clone());
        (self.local, self.told) = (Some(generator), 0);
        self.tell_fallbacks();
    }

    /// The generator that currently answers.
    fn active(&self) -> Option<&dyn TextGeneration> {
        match self.remote.active() {
            Some(remote) => Some(remote),
            None => self.local.as_ref().map(|l| l as &dyn TextGeneration),
        }
    }

    /// How the model that answers would have tokens chosen.
    pub(super) fn recommended(&self) -> Recommended {
        self.active().map(TextGeneration::recommended).unwrap_or_default()
    }

    fn info(&self) -> Option<GeneratorInfo> {
        self.active().map(TextGeneration::info)
    }

    /// Prints the greeting.
    pub(super) fn greet(&self) {
        if let Some(info) = self.info().filter(|_| self.terminal) {
            note(&format!("{}; /help lists the commands", show::description(&info)));
        }
    }

    fn tell_fallbacks(&mut self) {
        let history = self.local.as_ref().map_or(&[][..], FallbackGenerator::history);
        for fallback in &history[self.told.min(history.len())..] {
            note(&fallback.to_string());
        }
        self.told = history.len();
    }

    /// Executes an input line.
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
                self.forget();
            }
            Request::System(None) => writeln!(out, "{}", self.conversation.system().unwrap_or("(none)"))?,
            Request::System(Some(text)) => self.conversation.set_system((text != "none").then_some(text)),
            Request::Stats => {
                let history = self.local.as_ref().map_or(&[][..], FallbackGenerator::history);
                show::stats(&mut out, self.active(), history)?;
            }
            Request::Save(file) => self.conversation.save(&file)?,
            Request::Load(file) => self.conversation = Conversation::load(&file)?,
            Request::Think(mode) => self.options.thinking = mode,
            Request::Model(None) => show::models(&mut out, self.info().as_ref(), self.settings.backend.device)?,
            Request::Model(Some(name)) => self.change_model(name)?,
            Request::Set(None) => {
                let sampling = self.sampling.sampling(&self.recommended());
                let max_tokens = self.options.max_tokens;
                writeln!(
                    out,
                    "temperature {}, top_k {}, top_p {}, min_p {}, repetition_penalty {}, seed {}, max_tokens {max_tokens}",
                    sampling.temperature,
                    sampling.top_k,
                    sampling.top_p,
                    sampling.min_p,
                    sampling.repetition_penalty,
                    sampling.seed
                )?;
            }
            Request::Set(Some((name, value)))
                if matches!(name.as_str(), "max_tokens" | "max-tokens" | "num_predict") =>
            {
                self.options.max_tokens =
                    value.parse().map_err(|_| format!("{name}: expected a whole number, found `{value}`"))?;
            }
            Request::Set(Some((name, value))) => self.sampling.set(&name, &value)?,
            Request::Remote(None) => writeln!(out, "{}", self.remote.state())?,
            Request::Remote(Some(true)) => self.remote.turn_on()?,
            Request::Remote(Some(false)) => self.stay_here()?,
        }
        Ok(After::Go)
    }

    fn forget(&mut self) {
        self.remote.reset();
        if let Some(local) = &mut self.local {
            local.reset();
        }
    }

    /// Switches to another model; keeps the current one if that fails.
    fn change_model(&mut self, name: PathBuf) -> Outcome<()> {
        let mut settings = self.settings.clone();
        (settings.backend.model_path, settings.backend.model_repo) = (Some(name), None);
        let generator = self.load(&settings)?;
        self.take(generator);
        self.remote.turn_off();
        self.settings = settings;
        self.greet();
        Ok(())
    }

    /// Switches back to the local model.
    fn stay_here(&mut self) -> Outcome<()> {
        if self.local.is_none() {
            let generator = self.load(&self.settings)?;
            self.take(generator);
        }
        self.remote.turn_off();
        Ok(())
    }

    /// Answers a message, streaming the output.
    fn answer(&mut self, text: String) -> Outcome<After> {
        self.conversation.push(Message::user(text));
        let mut printer = show::Printer::new(self.settings.streaming_enabled, self.terminal);
        let mut result = self.ask(&mut printer);
        self.tell_fallbacks();
        let exhausted = result.as_ref().err().is_some_and(|e| matches!(e, Error::NoBackend { .. }));
        if exhausted && self.remote.is_allowed() && self.remote.active().is_none() {
            self.local = None;
            result = self.remote.turn_on().and_then(|()| self.ask(&mut printer));
        }
        if let Some(e) = printer.broken.take() {
            // Nobody reads the answers: there is nothing to go on for.
            return Ok(After::Unwritten(e));
        }
        let summary = match result {
            Ok(summary) => summary,
            Err(e) => {
                printer.give_up()?;
                self.conversation.pop();
                return Err(e.into());
            }
        };
        if let Err(e) = printer.finish(&summary.text) {
            return Ok(After::Unwritten(e));
        }
        match summary.stop_reason {
            StopReason::Cancelled => note("(stopped)"),
            StopReason::MaxTokens => note("(the limit of --max-tokens)"),
            StopReason::WindowFull => note("(the context is full)"),
            StopReason::EndOfText | StopReason::StopText => {}
        }
        self.conversation.push(Message::assistant(summary.text));
        self.after_answer();
        Ok(After::Go)
    }

    /// Runs the active generator, monitored.
    fn ask(&mut self, printer: &mut show::Printer) -> candle_coreml::Result<Summary> {
        let info = self.info();
        let progress: Arc<Progress> = Arc::default();
        let options = Options { progress: progress.clone(), ..self.options.clone() };
        let cancel = self.cancel.clone();
        // A late Ctrl-C for the previous answer must not cancel this one.
        cancel.clear();
        let _working = Working::begin();
        let place = info.as_ref().map(show::place).unwrap_or_default();
        let watch = Watch::new(Limits::default(), "waiting for the model", &place);
        let watching = Watching::begin(watch, progress, self.pause.clone());
        let generator: &mut dyn TextGeneration = match (self.remote.active_mut(), &mut self.local) {
            (Some(remote), _) => remote,
            (None, Some(local)) => local,
            (None, None) => return Err(Error::Unavailable("no model is loaded; /model NAME loads one".to_owned())),
        };
        generator.chat(self.conversation.messages(), options, &mut |step| {
            if printer.begins(&step.text) {
                watching.answer();
            }
            if !printer.step(&step.text) {
                cancel.cancel();
            }
        })
    }

    /// Prints events such as fallbacks; on a terminal also the speed.
    fn after_answer(&self) {
        let Some(active) = self.active() else { return };
        let stats = active.stats();
        let Some(turn) = &stats.last else { return };
        if turn.dropped_messages > 0 {
            note(&format!("(the {} oldest messages do not fit the context)", turn.dropped_messages));
        }
        if self.terminal {
            note(&show::after_answer(turn, &stats, &active.info()));
        }
    }
}
