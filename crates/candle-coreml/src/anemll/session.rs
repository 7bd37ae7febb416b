//! [`Session`]: the KV cache of one conversation.

use crate::state::CoreMLState;

/// The KV cache of one conversation and the tokens that it holds.
#[derive(Debug)]
pub struct Session {
    pub(super) state: CoreMLState,
    pub(super) tokens: Vec<u32>,
}

impl Session {
    /// Tokens in the cache, in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Drops the tokens from `length` on; their cache rows are overwritten later.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
    }

    /// The states, to save or compare them.
    pub fn state(&self) -> &CoreMLState {
        &self.state
    }
}
