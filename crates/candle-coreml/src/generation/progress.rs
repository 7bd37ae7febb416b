//! How far a generation is.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counters that the generation sets and others read, from whatever thread.
#[derive(Debug, Default)]
pub struct Progress {
    prompt: AtomicUsize,
    prefilled: AtomicUsize,
    generated: AtomicUsize,
}

impl Progress {
    /// Prompt tokens that have to run; 0 until that is known.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.load(Relaxed)
    }

    /// Those of them that have run.
    pub fn prefilled_tokens(&self) -> usize {
        self.prefilled.load(Relaxed)
    }

    /// Tokens of the answer until now.
    pub fn generated_tokens(&self) -> usize {
        self.generated.load(Relaxed)
    }

    /// A prompt begins.
    pub fn begin(&self, prompt: usize) {
        self.generated.store(0, Relaxed);
        self.prefilled.store(0, Relaxed);
        self.prompt.store(prompt, Relaxed);
    }

    /// So many of its tokens have run.
    pub fn prefilled(&self, tokens: usize) {
        self.prefilled.store(tokens, Relaxed);
    }

    /// The answer has so many tokens.
    pub fn generated(&self, tokens: usize) {
        self.generated.store(tokens, Relaxed);
    }
}
