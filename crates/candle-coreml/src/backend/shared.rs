//! One loaded model for several concurrent conversations.

use std::sync::Arc;

use super::GeneratorInfo;
use crate::error::Result;
use crate::generation::{Decoder, Tokenizer};

/// Creates a conversation with an empty cache.
type Make = dyn Fn() -> Result<Box<dyn Decoder + Send>> + Send + Sync;

/// A model and its tokenizer. Its conversations share the weights; each has its own cache, and they may run on
/// different threads at once.
#[derive(Clone)]
pub struct SharedModel {
    info: GeneratorInfo,
    vocab: usize,
    tokenizer: Arc<Tokenizer>,
    make: Arc<Make>,
}

impl std::fmt::Debug for SharedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedModel").field("info", &self.info).field("vocab", &self.vocab).finish_non_exhaustive()
    }
}

impl SharedModel {
    /// A model whose conversations `make` creates.
    pub fn new(
        info: GeneratorInfo,
        vocab: usize,
        tokenizer: Arc<Tokenizer>,
        make: impl Fn() -> Result<Box<dyn Decoder + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self { info, vocab, tokenizer, make: Arc::new(make) }
    }

    /// Information about the model.
    pub fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    /// Vocabulary size.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Creates a conversation with an empty cache.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn conversation(&self) -> Result<Box<dyn Decoder + Send>> {
        (self.make)()
    }
}
