//! Progress of a generation.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counters written by the generation and readable from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    prompt: AtomicUsize,
    prefilled: AtomicUsize,
    generated: AtomicUsize,
}

impl Progress {
    /// Number of prompt tokens to run; 0 until known.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.load(Relaxed)
    }

    /// Number of prompt tokens run so far.
    pub fn prefilled_tokens(&self) -> usize {
        self.prefilled.load(Relaxed)
    }

    /// Number of answer tokens so far.
    pub fn generated_tokens(&self) -> usize {
        self.generated.load(Relaxed)
    }

    /// Starts a prompt.
    pub fn begin(&self, prompt: usize) {
        self.generated.store(0, Relaxed);
        self.prefilled.store(0, Relaxed);
        self.prompt.store(prompt, Relaxed);
    }

    /// Sets the number of prompt tokens run.
    pub fn prefilled(&self, tokens: usize) {
        self.prefilled.store(tokens, Relaxed);
    }

    /// Sets the number of answer tokens.
    pub fn generated(&self, tokens: usize) {
        self.generated.store(tokens, Relaxed);
    }
}
