//! [`Decoder`]: a model with the cache of one conversation.

use crate::anemll::{Pipeline, Session};
use crate::error::Result;

/// Prefill chunk length for models without fixed batches.
const PART: usize = 128;

/// A model and its cached tokens.
pub trait Decoder {
    /// Tokens in the cache, in order.
    fn tokens(&self) -> &[u32];

    /// Truncates the cache to at most `length` tokens; returns the number kept. A decoder that can't rewind to any
    /// position keeps fewer, and the rest is recomputed.
    fn truncate(&mut self, length: usize) -> usize;

    /// Maximum number of cached tokens.
    fn context(&self) -> usize;

    /// Whether the model tells only which token is best: logits of others are −∞, and nothing but greedy choices, without
    /// penalties, means anything.
    fn greedy_only(&self) -> bool {
        false
    }

    /// Appends tokens and returns the logits `[vocab]` that follow the last one.
    ///
    /// # Errors
    /// If there are no tokens, ids are outside the vocabulary, the context is exceeded, or the engine fails.
    fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>>;

    /// [`Decoder::forward`] in chunks. Calls `more` after each with the number of `ids` run so far; stops and returns
    /// `None` if it returns false. The tokens run so far stay in the cache.
    ///
    /// # Errors
    /// Same as [`Decoder::forward`].
    fn forward_chunked(&mut self, ids: &[u32], more: &mut dyn FnMut(usize) -> bool) -> Result<Option<Vec<f32>>> {
        let mut done = 0;
        loop {
            let part = &ids[done..(done + PART).min(ids.len())];
            // Forward an empty prompt too: the decoder reports the error.
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

    /// [`Decoder::forward`] for one token; makes room first if the context is full.
    ///
    /// # Errors
    /// Same as [`Decoder::forward`].
    fn forward_with_shift(&mut self, id: u32) -> Result<Vec<f32>>;

    /// Appends tokens and returns the logits after each, to the bit those of [`Decoder::forward`] one by one, but reads the
    /// weights once. `None` if the decoder can't, or not at this place: nothing has then changed.
    ///
    /// # Errors
    /// Same as [`Decoder::forward`].
    fn forward_guesses(&mut self, _ids: &[u32]) -> Option<Result<Vec<Vec<f32>>>> {
        None
    }

    /// Says that no token is asked for until the next prompt: conversations that decode together wait for each other.
    fn rest(&mut self) {}
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

    fn forward_guesses(&mut self, ids: &[u32]) -> Option<Result<Vec<Vec<f32>>>> {
        (**self).forward_guesses(ids)
    }

    fn rest(&mut self) {
        (**self).rest();
    }
}

/// A Core ML pipeline with a session.
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

    fn forward_guesses(&mut self, ids: &[u32]) -> Option<Result<Vec<Vec<f32>>>> {
        let tokens: Vec<(usize, u32)> = ids.iter().map(|&id| (0, id)).collect();
        self.pipeline.forward_together(&mut [&mut *self.session], &tokens)
    }
}
