//! Limits the length of a text before tokenization: tokens take far more memory and time than the bytes they come from.

use crate::error::{Error, Result};
use crate::generation::vocabulary::Vocabulary;

/// Minimum bytes per token assumed by this limit: tokenizers may drop spaces, and may map a whole unknown word to one
/// token.
const USUAL: usize = 64;

/// Maximum size in bytes of a text that may fit a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteLimit {
    context: usize,
    most: usize,
}

impl ByteLimit {
    /// `context` times the longest token of the vocabulary, or 64 bytes if that is more.
    pub(crate) fn new(vocabulary: &Vocabulary, context: usize) -> Self {
        Self { context, most: context.saturating_mul(vocabulary.longest_token().max(USUAL)) }
    }

    /// Rejects a text of this many bytes if it cannot fit.
    ///
    /// # Errors
    /// [`Error::PromptBytes`].
    pub(crate) fn check(self, bytes: usize) -> Result<()> {
        let Self { context, most } = self;
        if bytes > most { Err(Error::PromptBytes { bytes, most, context }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_counts_and_short_ones_get_the_usual_bytes() {
        let limit = |token: &str| {
            let vocab = format!("{{\"a\": 0, \"{token}\": 1}}");
            let model = format!("{{\"type\": \"WordLevel\", \"unk_token\": \"a\", \"vocab\": {vocab}}}");
            let file = format!("{{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {model}}}");
            ByteLimit::new(&Vocabulary::read("tokenizer.json".as_ref(), file.as_bytes()).expect("a tokenizer"), 3)
        };
        assert_eq!(limit("b").most, 3 * USUAL);
        let long = limit(&"b".repeat(100));
        assert_eq!((long.check(300).is_ok(), limit("b").check(0).is_ok()), (true, true));
        assert!(matches!(long.check(301), Err(Error::PromptBytes { bytes: 301, most: 300, context: 3 })));
    }
}
