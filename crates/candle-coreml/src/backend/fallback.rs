//! A chain of backends of which the first that works answers.

use std::collections::VecDeque;

use super::{BackendDevice, CancelHandle, GeneratorInfo, SharedModel, Stats, TextGeneration};
use crate::error::{Error, Fallback, Result, Stage};
use crate::generation::{Message, Options, Step, Summary};

/// Something that can become a generator.
pub trait Backend: Send {
    /// Its device.
    fn device(&self) -> BackendDevice;

    /// Why it can't be had on this machine or in this build, before anything is loaded.
    fn absent(&self) -> Option<String>;

    /// Loads the model.
    ///
    /// # Errors
    /// Whatever keeps it from loading.
    fn load(&self) -> Result<Box<dyn TextGeneration>>;
}

/// A request to a generator, which may be made again to another one.
type Request<'r> = dyn Fn(&mut dyn TextGeneration, &mut dyn FnMut(&Step)) -> Result<Summary> + 'r;

/// The first backend of a chain that works, until it fails for the first time before it ever gave a token.
///
/// A backend that has given a token stays: when it fails later, that is the caller's error, because an answer
/// must not begin anew in the middle. A request that is at fault itself ([`ErrorKind::is_request`](crate::ErrorKind::is_request)) changes nothing.
pub struct FallbackGenerator {
    active: Box<dyn TextGeneration>,
    /// Whether `active` has given a token.
    proven: bool,
    waiting: VecDeque<Box<dyn Backend>>,
    history: Vec<Fallback>,
    cancel: CancelHandle,
}

impl std::fmt::Debug for FallbackGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FallbackGenerator")
            .field("active", &self.active.info())
            .field("proven", &self.proven)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

/// An error and its causes in one line, each said once.
fn reason(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes
        .map(|c| c.to_string())
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

/// Loads the first backend that can be loaded; those before it go into the history.
fn next(waiting: &mut VecDeque<Box<dyn Backend>>, history: &mut Vec<Fallback>) -> Option<Box<dyn TextGeneration>> {
    while let Some(backend) = waiting.pop_front() {
        let device = backend.device();
        let (stage, reason) = match backend.absent() {
            Some(reason) => (Stage::Absent, reason),
            None => match backend.load() {
                Ok(generator) => {
                    tracing::info!(%device, "backend loaded");
                    return Some(generator);
                }
                Err(e) => (Stage::Load, reason(&e)),
            },
        };
        note(history, Fallback { device, stage, reason });
    }
    None
}

fn note(history: &mut Vec<Fallback>, fallback: Fallback) {
    tracing::warn!("{fallback}");
    history.push(fallback);
}

impl FallbackGenerator {
    /// Loads the first backend that can be loaded.
    ///
    /// # Errors
    /// [`Error::NoBackend`] with the reason of each, when there is none.
    pub fn new(backends: Vec<Box<dyn Backend>>) -> Result<Self> {
        let (mut waiting, mut history) = (VecDeque::from(backends), Vec::new());
        let Some(mut active) = next(&mut waiting, &mut history) else {
            return Err(Error::NoBackend { history });
        };
        let cancel = CancelHandle::default();
        active.set_cancel_handle(cancel.clone());
        Ok(Self { active, proven: false, waiting, history, cancel })
    }

    /// The backends that were given up, and why.
    pub fn history(&self) -> &[Fallback] {
        &self.history
    }

    /// Runs a request on the active backend; before its first token ever, the next ones may take over.
    fn attempt(&mut self, on_token: &mut dyn FnMut(&Step), request: &Request) -> Result<Summary> {
        loop {
            let proven = &mut self.proven;
            let result = request(self.active.as_mut(), &mut |step| {
                *proven = true;
                on_token(step);
            });
            let error = match result {
                Ok(summary) => return Ok(summary),
                Err(e) if self.proven || e.kind().is_request() => return Err(e),
                Err(e) => e,
            };
            let device = self.active.info().device;
            note(&mut self.history, Fallback { device, stage: Stage::FirstStep, reason: reason(&error) });
            let Some(mut generator) = next(&mut self.waiting, &mut self.history) else {
                return Err(Error::NoBackend { history: self.history.clone() });
            };
            generator.set_cancel_handle(self.cancel.clone());
            self.active = generator;
        }
    }
}

impl TextGeneration for FallbackGenerator {
    fn info(&self) -> GeneratorInfo {
        self.active.info()
    }

    fn stream(&mut self, prompt: &str, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        self.attempt(on_token, &|generator, on_token| generator.stream(prompt, options.clone(), on_token))
    }

    fn chat(&mut self, messages: &[Message], options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        self.attempt(on_token, &|generator, on_token| generator.chat(messages, options.clone(), on_token))
    }

    fn reset(&mut self) {
        self.active.reset();
    }

    fn stats(&self) -> Stats {
        self.active.stats()
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    fn set_cancel_handle(&mut self, handle: CancelHandle) {
        self.active.set_cancel_handle(handle.clone());
        self.cancel = handle;
    }

    /// The active backend's. What takes over later is not shared: prove the backend with a first token before.
    fn share(&self) -> Option<SharedModel> {
        self.active.share()
    }
}
