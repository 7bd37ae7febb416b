//! Folders of Core ML packages as a [`TextGeneration`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::request::{Prompt, Requests};
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
        let pipeline = self.pipeline.clone();
        let make = move || {
            let session = pipeline.session()?;
            Ok(Box::new(Conversation { pipeline: pipeline.clone(), session }) as Box<dyn Decoder + Send>)
        };
        Some(SharedModel::new(self.info(), self.pipeline.dimensions().vocab, self.tokenizer.clone(), make))
    }
}

/// A [`PipelineDecoder`] that owns its model.
struct Conversation {
    pipeline: Arc<Pipeline>,
    session: Session,
}

impl Conversation {
    fn decoder(&mut self) -> PipelineDecoder<'_> {
        PipelineDecoder { pipeline: &self.pipeline, session: &mut self.session }
    }
}

impl Decoder for Conversation {
    fn tokens(&self) -> &[u32] {
        self.session.tokens()
    }

    fn truncate(&mut self, length: usize) -> usize {
        self.decoder().truncate(length)
    }

    fn context(&self) -> usize {
        self.pipeline.dimensions().context
    }

    fn greedy_only(&self) -> bool {
        self.pipeline.greedy_only()
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.decoder().forward(ids)
    }

    fn forward_with_shift(&mut self, id: u32) -> Result<Vec<f32>> {
        self.decoder().forward_with_shift(id)
    }
}
