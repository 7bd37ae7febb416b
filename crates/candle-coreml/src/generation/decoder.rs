//! What a generation drives: a model with the cache of one conversation.

use crate::anemll::{Pipeline, Session};
use crate::error::Result;

/// Prompt tokens that run at once where the model has no batches of its own.
const PART: usize = 128;

/// A model and the tokens that its cache holds.
pub trait Decoder {
    /// Tokens in the cache, in order.
    fn tokens(&self) -> &[u32];

    /// Forgets tokens so that at most the first `length` stay; returns how many did. A decoder that can't go
    /// back to just any position keeps fewer, and their tokens are run again.
    fn truncate(&mut self, length: usize) -> usize;

    /// Tokens that the cache can hold.
    fn context(&self) -> usize;

    /// Whether the model tells only which token is best: logits of others are −∞, and nothing but greedy choices, without
    /// penalties, means anything.
    fn greedy_only(&self) -> bool {
        false
    }

    /// Appends tokens and returns the logits `[vocab]` that follow the last one.
    ///
    /// # Errors
    /// No tokens, ids outside the vocabulary, more tokens than the context holds, failures of the engine.
    fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>>;

    /// [`Decoder::forward`] in parts. `more` learns after each how many of `ids` have run, and says whether to go on;
    /// none when it did not want to. What has run then stays in the cache.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    fn forward_chunked(&mut self, ids: &[u32], more: &mut dyn FnMut(usize) -> bool) -> Result<Option<Vec<f32>>> {
        let mut done = 0;
        loop {
            let part = &ids[done..(done + PART).min(ids.len())];
            // An empty prompt is fed, too: the decoder says what is wrong with it.
            let logits = self.forward(part)?;
            done += part.len();
            let go_on = more(done);
            if done == ids.len() {
                return Ok(Some(logits));
            }
            if !go_on {
                return Ok(None);
            }
        }
    }

    /// [`Decoder::forward`] for one token; makes room first when the context is full.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    fn forward_with_shift(&mut self, id: u32) -> Result<Vec<f32>>;
}

impl<D: Decoder + ?Sized> Decoder for &mut D {
    fn tokens(&self) -> &[u32] {
        (**self).tokens()
    }

    fn truncate(&mut self, length: usize) -> usize {
        (**self).truncate(length)
    }

    fn context(&self) -> usize {
        (**self).context()
    }

    fn greedy_only(&self) -> bool {
        (**self).greedy_only()
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        (**self).forward(ids)
    }

    fn forward_chunked(&mut self, ids: &[u32], more: &mut dyn FnMut(usize) -> bool) -> Result<Option<Vec<f32>>> {
        (**self).forward_chunked(ids, more)
    }

    fn forward_with_shift(&mut self, id: u32) -> Result<Vec<f32>> {
        (**self).forward_with_shift(id)
    }
}

/// A Core ML pipeline with one of its sessions.
#[derive(Debug)]
pub struct PipelineDecoder<'a> {
    /// The model.
    pub pipeline: &'a Pipeline,
    /// The conversation.
    pub session: &'a mut Session,
}

impl Decoder for PipelineDecoder<'_> {
    fn tokens(&self) -> &[u32] {
        self.session.tokens()
    }

    fn truncate(&mut self, length: usize) -> usize {
        self.session.truncate(length);
        self.session.tokens().len()
    }

    fn context(&self) -> usize {
        self.pipeline.dimensions().context
    }

    fn greedy_only(&self) -> bool {
        self.pipeline.greedy_only()
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.pipeline.forward(self.session, ids)
    }

    fn forward_chunked(&mut self, ids: &[u32], more: &mut dyn FnMut(usize) -> bool) -> Result<Option<Vec<f32>>> {
        self.pipeline.forward_chunked(self.session, ids, more)
    }

    fn forward_with_shift(&mut self, id: u32) -> Result<Vec<f32>> {
        self.pipeline.forward_with_shift(self.session, id)
    }
}
