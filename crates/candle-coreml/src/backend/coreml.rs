//! Folders of Core ML packages as a [`TextGeneration`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::request::{Prompt, Requests};
use super::turns::Turns;
use super::{BackendDevice, CancelHandle, GeneratorInfo, SharedModel, Stats, TextGeneration};
use crate::anemll::{Pipeline, Session};
use crate::error::Result;
use crate::generation::{Decoder, Message, Options, PipelineDecoder, Recommended, Step, Summary, Tokenizer};

/// A language model of Core ML packages with its tokenizer and one conversation.
#[derive(Debug)]
pub struct CoreMLGenerator {
    pipeline: Arc<Pipeline>,
    session: Session,
    tokenizer: Arc<Tokenizer>,
    folder: PathBuf,
    requests: Requests,
}

impl CoreMLGenerator {
    /// Loads the model in a folder; the tokenizer is in the same folder.
    ///
    /// # Errors
    /// If components or the tokenizer are missing or malformed.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let pipeline = Arc::new(Pipeline::load(folder)?);
        let session = pipeline.session()?;
        let tokenizer = Arc::new(Tokenizer::load(folder)?);
        Ok(Self { pipeline, session, tokenizer, folder: folder.to_owned(), requests: Requests::default() })
    }

    fn run(&mut self, prompt: &Prompt, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        let decoder = PipelineDecoder { pipeline: &self.pipeline, session: &mut self.session };
        self.requests.run(decoder, &self.tokenizer, prompt, options, on_token)
    }
}

impl TextGeneration for CoreMLGenerator {
    fn info(&self) -> GeneratorInfo {
        GeneratorInfo {
            device: BackendDevice::CoreML,
            engine: self.pipeline.engine(),
            model: self.folder.clone(),
            dtype: "f32",
            context: self.pipeline.dimensions().context,
        }
    }

    fn recommended(&self) -> Recommended {
        if self.pipeline.greedy_only() { Recommended::greedy() } else { Recommended::read(&self.folder) }
    }

    fn stream(&mut self, prompt: &str, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        let prompt = Prompt::text(&self.tokenizer, prompt)?;
        self.run(&prompt, options, on_token)
    }

    fn chat(&mut self, messages: &[Message], options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        let prompt = Prompt::chat(&self.tokenizer, messages, &options, self.pipeline.dimensions().context)?;
        self.run(&prompt, options, on_token)
    }

    fn reset(&mut self) {
        self.session.truncate(0);
        self.requests.stats.context_used = 0;
    }

    fn stats(&self) -> Stats {
        self.requests.stats.clone()
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.requests.cancel.clone()
    }

    fn set_cancel_handle(&mut self, handle: CancelHandle) {
        self.requests.cancel = handle;
    }

    fn share(&self) -> Option<SharedModel> {
        let (pipeline, turns) = (self.pipeline.clone(), Arc::new(Turns::default()));
        let make = move || {
            let session = pipeline.session()?;
            let (pipeline, turns) = (pipeline.clone(), turns.clone());
            let conversation = Conversation { pipeline, turns, session: Some(session), joined: false };
            Ok(Box::new(conversation) as Box<dyn Decoder + Send>)
        };
        Some(SharedModel::new(self.info(), self.pipeline.dimensions().vocab, self.tokenizer.clone(), make))
    }
}

/// A [`PipelineDecoder`] that owns its model, and decodes together with others of it.
struct Conversation {
    pipeline: Arc<Pipeline>,
    turns: Arc<Turns>,
    /// None while a step runs, or after a panic in one.
    session: Option<Session>,
    /// Whether it has taken steps since its prompt.
    joined: bool,
}

impl Conversation {
    fn leave(&mut self) {
        if std::mem::take(&mut self.joined) {
            self.turns.leave();
        }
    }

    /// The conversation by itself; a new one after a panic.
    fn alone<R>(&mut self, run: impl FnOnce(PipelineDecoder<'_>) -> Result<R>) -> Result<R> {
        self.leave();
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(self.pipeline.session()?),
        };
        run(PipelineDecoder { pipeline: &self.pipeline, session })
    }
}

impl Conversation {
    /// Appends one token, together with those of other conversations.
    fn step(&mut self, id: u32, slide: bool) -> Result<Vec<f32>> {
        self.joined = true;
        let session = match self.session.take() {
            Some(session) => session,
            None => self.pipeline.session()?,
        };
        let (session, logits) = self.turns.step(&self.pipeline, session, id, slide);
        self.session = session;
        logits
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Decoder for Conversation {
    fn tokens(&self) -> &[u32] {
        self.session.as_ref().map_or(&[], Session::tokens)
    }

    fn truncate(&mut self, length: usize) -> usize {
        self.alone(|mut decoder| Ok(decoder.truncate(length))).unwrap_or(0)
    }

    fn context(&self) -> usize {
        self.pipeline.dimensions().context
    }

    fn greedy_only(&self) -> bool {
        self.pipeline.greedy_only()
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        match ids {
            // A step of an answer without a sliding window.
            &[id] if !self.tokens().is_empty() => self.step(id, false),
            _ => self.alone(|mut decoder| decoder.forward(ids)),
        }
    }

    fn forward_chunked(&mut self, ids: &[u32], more: &mut dyn FnMut(usize) -> bool) -> Result<Option<Vec<f32>>> {
        self.alone(|mut decoder| decoder.forward_chunked(ids, more))
    }

    fn forward_with_shift(&mut self, id: u32) -> Result<Vec<f32>> {
        self.step(id, true)
    }

    fn forward_guesses(&mut self, ids: &[u32]) -> Option<Result<Vec<Vec<f32>>>> {
        self.leave();
        PipelineDecoder { pipeline: &self.pipeline, session: self.session.as_mut()? }.forward_guesses(ids)
    }

    fn rest(&mut self) {
        self.leave();
    }
}
