//! A chain of backends; the first one that works answers.

use std::collections::VecDeque;

use super::{BackendDevice, CancelHandle, GeneratorInfo, SharedModel, Stats, TextGeneration};
use crate::error::{Error, Fallback, Fault, Result, Stage};
use crate::generation::{Message, Options, Step, Summary};

/// A backend that can be loaded as a generator.
pub trait Backend: Send {
    /// The device.
    fn device(&self) -> BackendDevice;

    /// The reason, if the backend is unavailable on this machine or in this build; checked before loading.
    fn absent(&self) -> Option<String>;

    /// Loads the model.
    ///
    /// # Errors
    /// Any error that prevents loading.
    fn load(&self) -> Result<Box<dyn TextGeneration>>;
}

/// A request to a generator, repeatable on another one.
type Request<'r> = dyn Fn(&mut dyn TextGeneration, &mut dyn FnMut(&Step)) -> Result<Summary> + 'r;

/// The first working backend of a chain; replaced if it fails before its first token.
///
/// Once a backend has returned a token it stays: later failures are returned to the caller, because an answer must not
/// restart midway. Errors of the request itself ([`ErrorKind::is_request`](crate::ErrorKind::is_request)) never fall
/// back.
pub struct FallbackGenerator {
    active: Box<dyn TextGeneration>,
    /// True once `active` has returned a token.
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

/// An error and its causes on one line, without repetitions.
fn reason(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes
        .map(|c| c.to_string())
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

/// Loads the first backend that can be loaded; records earlier ones in the history.
fn next(waiting: &mut VecDeque<Box<dyn Backend>>, history: &mut Vec<Fallback>) -> Option<Box<dyn TextGeneration>> {
    while let Some(backend) = waiting.pop_front() {
        let device = backend.device();
        let (stage, reason, fault) = match backend.absent() {
            Some(reason) => (Stage::Absent, reason, Fault::Device),
            None => match backend.load() {
                Ok(generator) => {
                    tracing::info!(%device, "backend loaded");
                    return Some(generator);
                }
                Err(e) => (Stage::Load, reason(&e), Fault::of(&e)),
            },
        };
        note(history, Fallback { device, stage, reason, fault });
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
    /// [`Error::NoBackend`] with the reason for each, if none can be loaded.
    pub fn new(backends: Vec<Box<dyn Backend>>) -> Result<Self> {
        let (mut waiting, mut history) = (VecDeque::from(backends), Vec::new());
        let Some(mut active) = next(&mut waiting, &mut history) else {
            return Err(Error::NoBackend { history });
        };
        let cancel = CancelHandle::default();
        active.set_cancel_handle(cancel.clone());
        Ok(Self { active, proven: false, waiting, history, cancel })
    }

    /// The backends that failed, with reasons.
    pub fn history(&self) -> &[Fallback] {
        &self.history
    }

    /// Runs a request on the active backend; before the first token, falls back to the next ones.
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
            let (stage, reason) = (Stage::FirstStep, reason(&error));
            note(&mut self.history, Fallback { device, stage, reason, fault: Fault::Device });
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

    fn recommended(&self) -> crate::generation::Recommended {
        self.active.recommended()
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

    /// The active backend's. Later fallbacks are not shared: generate a first token before.
    fn share(&self) -> Option<SharedModel> {
        self.active.share()
    }
}
