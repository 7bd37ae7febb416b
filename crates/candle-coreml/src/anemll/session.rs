//! [`Session`]: the KV cache of one conversation.

use candle_core::Tensor;

use crate::error::Result;
use crate::state::CoreMLState;

/// Caches that hold only the last tokens, once the conversation is longer than their window.
#[derive(Debug)]
pub(super) struct Rotation {
    /// Tokens that the caches hold.
    pub(super) window: usize,
    /// Names of the caches.
    pub(super) states: Vec<String>,
    /// Copies from before the first token beyond the window.
    full: Option<Vec<Tensor>>,
}

impl Rotation {
    pub(super) fn new(window: usize, states: Vec<String>) -> Self {
        Self { window, states, full: None }
    }
}

/// A cache that comes out of each prediction and goes into the next.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) cache: Tensor,
    /// The dimension with one row for each token, where it has no others.
    pub(crate) grows: Option<usize>,
}

/// The KV cache of one conversation and the tokens that it holds.
#[derive(Debug)]
pub struct Session {
    pub(crate) state: CoreMLState,
    pub(crate) tokens: Vec<u32>,
    pub(super) rotation: Option<Rotation>,
    pub(crate) passed: Vec<Passed>,
}

impl Session {
    /// An empty conversation over caches of whole conversations.
    pub(crate) fn of(state: CoreMLState, passed: Vec<Passed>) -> Self {
        Self { state, tokens: Vec::new(), rotation: None, passed }
    }

    /// Tokens in the cache, in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets the tokens from `length` on; their cache rows are overwritten later. Caches that have moved on beyond
    /// their window can only go back to where it was full, so fewer tokens may stay: see [`Session::tokens`].
    pub fn truncate(&mut self, length: usize) {
        if length >= self.tokens.len() {
            return;
        }
        for passed in &mut self.passed {
            let Some(axis) = passed.grows else { continue };
            match passed.cache.narrow(axis, 0, length) {
                Ok(shorter) => passed.cache = shorter,
                // Never: a cache has a row for each token.
                Err(_) => return,
            }
        }
        let moved = self.rotation.as_mut().filter(|r| self.tokens.len() > r.window);
        let Some(rotation) = moved else { return self.tokens.truncate(length) };
        let full = rotation.full.take().unwrap_or_default();
        let mut restored = full.len() == rotation.states.len();
        for (name, copy) in rotation.states.iter().zip(&full) {
            restored &= self.state.set(name, copy).is_ok();
        }
        self.tokens.truncate(if restored { length.min(rotation.window) } else { 0 });
    }

    /// Keeps copies of the caches that the next token, the first beyond their window, moves.
    pub(super) fn keep_full(&mut self) -> Result<()> {
        if let Some(rotation) = self.rotation.as_mut().filter(|r| self.tokens.len() == r.window) {
            let copies: Result<Vec<Tensor>> = rotation.states.iter().map(|name| self.state.get(name)).collect();
            rotation.full = Some(copies?);
        }
        Ok(())
    }

    /// The states, to save or compare them.
    pub fn state(&self) -> &CoreMLState {
        &self.state
    }
}
