//! [`Session`]: the KV cache of one conversation.

use candle_core::Tensor;

use super::rotation::Rotation;
use crate::error::Result;
use crate::state::CoreMLState;

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
    /// States of the chunks after the first one, where each has its own.
    pub(super) others: Vec<CoreMLState>,
    pub(crate) tokens: Vec<u32>,
    pub(super) rotation: Option<Rotation>,
    /// Whether a state sums up all tokens, so that none can be taken back.
    pub(super) recurrent: bool,
    pub(crate) passed: Vec<Passed>,
}

impl Session {
    /// An empty conversation over caches of whole conversations.
    pub(crate) fn of(state: CoreMLState, passed: Vec<Passed>) -> Self {
        Self { state, others: Vec::new(), tokens: Vec::new(), rotation: None, recurrent: false, passed }
    }

    /// Tokens in the cache, in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets the tokens from `length` on; their cache rows are overwritten later. Caches that have moved on beyond
    /// their window go back by about a window, else to where it was full, and recurrent states only to the beginning, so
    /// fewer tokens may stay: see [`Session::tokens`].
    pub fn truncate(&mut self, length: usize) {
        let tokens = self.tokens.len();
        if length >= tokens {
            return;
        }
        if self.recurrent {
            // Zeroed before the next token: see `begin`.
            return self.tokens.clear();
        }
        for passed in &mut self.passed {
            let Some(axis) = passed.grows else { continue };
            match passed.cache.narrow(axis, 0, length) {
                Ok(shorter) => passed.cache = shorter,
                // Never: a cache has a row for each token.
                Err(_) => return,
            }
        }
        let kept = match &self.rotation {
            Some(rotation) if rotation.has_moved(tokens) && length > 0 => self.go_back(rotation, length),
            _ => Ok((length, Vec::new())),
        };
        let mut kept = kept.unwrap_or_default();
        if self.restore(&kept.1).is_err() {
            kept.0 = 0;
        }
        self.tokens.truncate(kept.0);
        if let Some(rotation) = &mut self.rotation {
            rotation.forget(kept.0);
        }
    }

    fn go_back(&self, rotation: &Rotation, length: usize) -> Result<(usize, Vec<Tensor>)> {
        rotation.back(self.tokens.len(), length, || self.copies(rotation))
    }

    /// Copies of the caches that move, state by state.
    fn copies(&self, rotation: &Rotation) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for state in std::iter::once(&self.state).chain(&self.others) {
            let names = state.names();
            for name in rotation.names().iter().filter(|n| names.contains(&n.as_str())) {
                all.push(state.get(name)?);
            }
        }
        Ok(all)
    }

    /// Writes back what [`copies`](Self::copies) gave.
    fn restore(&mut self, copies: &[Tensor]) -> Result<()> {
        let Some(rotation) = self.rotation.as_ref().filter(|_| !copies.is_empty()) else { return Ok(()) };
        let mut copies = copies.iter();
        for state in std::iter::once(&mut self.state).chain(&mut self.others) {
            for name in rotation.names() {
                if state.names().contains(&name.as_str())
                    && let Some(copy) = copies.next()
                {
                    state.set(name, copy)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the states ready for the first token of a conversation.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.recurrent && self.tokens.is_empty() {
            for state in std::iter::once(&mut self.state).chain(&mut self.others) {
                state.reset()?;
            }
        }
        Ok(())
    }

    /// Keeps copies of the caches that the next token moves, now and then.
    pub(super) fn keep(&mut self) -> Result<()> {
        let tokens = self.tokens.len();
        let Some(rotation) = self.rotation.as_ref().filter(|r| r.is_due(tokens)) else { return Ok(()) };
        let copies = self.copies(rotation)?;
        if let Some(rotation) = &mut self.rotation {
            rotation.keep(tokens, copies);
        }
        Ok(())
    }

    /// Forgets everything, as after a failure that may have changed some states and not others.
    pub(super) fn spoil(&mut self) {
        self.tokens.clear();
        if let Some(rotation) = &mut self.rotation {
            rotation.forget(0);
        }
    }

    /// The states of a chunk.
    pub(super) fn state_of(&mut self, chunk: usize) -> &mut CoreMLState {
        match chunk.checked_sub(1) {
            Some(i) if i < self.others.len() => &mut self.others[i],
            _ => &mut self.state,
        }
    }

    /// The states, to save or compare them; where each chunk has its own, those of the first one.
    pub fn state(&self) -> &CoreMLState {
        &self.state
    }
}
