//! Validates `tokenizer.json` before the tokenizers library parses it, and bounds calls to the library.
//!
//! The file is untrusted: it can make the library grow a text at every step, run a regular expression for hours, pad by
//! gigabytes, or panic. So the file is parsed twice: once to check sizes, lengths and parameters ([`rules`]), then by
//! the library, which gets only the checked parts. Truncation and padding are not needed here: both are removed.
//! Remaining panics become errors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use coreml_format::file;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::error::{Error, Result};
use crate::files;
use bytes::Spelling;

mod bytes;
mod charsmap;
mod rules;
pub(super) mod sentencepiece;

/// Maximum size of `tokenizer.json` in bytes; the largest known have about 35 MB.
pub(crate) const LARGEST_FILE: u64 = 256 << 20;

/// Maximum size of a text to tokenize, in bytes.
pub(crate) const LONGEST_TEXT: usize = 16 << 20;

/// Maximum size after normalizers or pre-tokenizers, in bytes; the library needs about 17 times as much memory.
const LONGEST_NORMALIZED: usize = 64 << 20;

/// Maximum size of a text for tokenizers with backtracking regular expressions, in bytes.
const LONGEST_BACKTRACKED: usize = 64 << 10;

/// A tokenizer with bounded cost.
pub(crate) struct Vocabulary {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    /// Truncation length in the file, in tokens.
    truncation: Option<usize>,
    /// Maximum size of a text to encode, in bytes.
    longest: usize,
    /// How tokens are spelled, or the decoder that has no spelling; made when it is needed.
    spelling: OnceLock<std::result::Result<Spelling, String>>,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary({})", self.path.display())
    }
}

/// Converts a panic of the library to an error.
pub(super) fn contained<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers library failed on it".to_owned()),
    }
}

/// Builds a part of the library from the checked value, serialized again.
fn part<T: serde::de::DeserializeOwned>(value: &Option<serde_json::Value>) -> tokenizers::Result<Option<T>> {
    Ok(match value {
        None | Some(serde_json::Value::Null) => None,
        Some(value) => Some(serde_json::from_str(&value.to_string())?),
    })
}

impl Vocabulary {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::File`] with the field, expected and found; [`Error::Io`].
    pub(crate) fn load(path: &Path) -> Result<Self> {
        Self::read(path, &file::read(path, LARGEST_FILE)?)
    }

    /// Reads the tokenizer of a folder: `tokenizer.json`, else `tokenizer.model`. `settings` is `tokenizer_config.json`.
    ///
    /// # Errors
    /// Same as [`Vocabulary::load`]; [`Error::Components`] if there is neither.
    pub(crate) fn of_folder(folder: &Path, settings: &serde_json::Value) -> Result<Self> {
        let json = folder.join("tokenizer.json");
        if file::exists(&json) {
            return Self::load(&json);
        }
        let path = folder.join("tokenizer.model");
        if !file::exists(&path) {
            let message = "no tokenizer.json and no tokenizer.model: copy one from the model's repository".to_owned();
            return Err(Error::Components { path: folder.to_owned(), message });
        }
        let content = file::read(&path, LARGEST_FILE)?;
        let fail = |message: String| Error::File { path: path.clone(), message };
        if let Some(found) = coreml_format::foreign::recognise(&content) {
            return Err(fail(format!("expected a SentencePiece model, found {found}")));
        }
        let found = sentencepiece::as_json(&content, settings).map_err(|reason| {
            fail(format!(
                "{reason}; `AutoTokenizer.from_pretrained(…).save_pretrained(…)` of transformers writes tokenizer.json"
            ))
        })?;
        Self::read(&path, found.to_string().as_bytes())
    }

    /// Reads the content of a `tokenizer.json`; errors name `path`.
    ///
    /// # Errors
    /// Same as [`Vocabulary::load`].
    pub(crate) fn read(path: &Path, content: &[u8]) -> Result<Self> {
        /// The part that is too large to parse as a value.
        #[derive(serde::Deserialize)]
        struct Rest {
            model: ModelWrapper,
        }
        let fail = |message: String| Error::File { path: path.to_owned(), message };
        let file: rules::File = serde_json::from_slice(content).map_err(|e| files::not_json(path, content, &e))?;
        let bounds = file.check().map_err(|e| fail(e.to_string()))?;
        let built = contained(|| {
            let rest: Rest = serde_json::from_slice(content)?;
            let mut inner = tokenizers::Tokenizer::new(rest.model);
            inner.with_normalizer(part::<NormalizerWrapper>(&file.normalizer)?);
            inner.with_pre_tokenizer(part::<PreTokenizerWrapper>(&file.pre_tokenizer)?);
            inner.with_post_processor(part::<PostProcessorWrapper>(&file.post_processor)?);
            inner.with_decoder(part::<DecoderWrapper>(&file.decoder)?);
            let added: Vec<AddedToken> = file.added_tokens.iter().map(|t| t.token.clone()).collect();
            inner.add_tokens(&added);
            Ok(inner)
        });
        let most = if bounds.backtracks { LONGEST_BACKTRACKED } else { LONGEST_TEXT };
        let room = LONGEST_NORMALIZED.saturating_sub(bounds.prefix) / bounds.growth.max(1);
        Ok(Self {
            inner: built.map_err(fail)?,
            path: path.to_owned(),
            truncation: file.truncation.and_then(|t| usize::try_from(t.max_length).ok()),
            longest: most.min(room),
            spelling: OnceLock::new(),
        })
    }

    /// Truncation length in the file, in tokens.
    pub(crate) fn truncation(&self) -> Option<usize> {
        self.truncation
    }

    /// Number of tokens, added ones included.
    pub(crate) fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Length of the longest token in bytes.
    pub(crate) fn longest_token(&self) -> usize {
        let ids = 0..u32::try_from(self.size()).unwrap_or(u32::MAX);
        ids.filter_map(|id| self.inner.id_to_token(id)).map(|token| token.len()).max().unwrap_or(0)
    }

    /// The id of a token.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns true for an added token that is special.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// A token as it stands in the vocabulary.
    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The bytes of tokens, or the decoder whose tokens have none of their own.
    pub(super) fn spelling(&self) -> &std::result::Result<Spelling, String> {
        self.spelling.get_or_init(|| {
            let decoder = self.inner.get_decoder().map(serde_json::to_value).transpose();
            Spelling::of(&decoder.map_err(|e| e.to_string())?.unwrap_or_default())
        })
    }

    /// One more than the largest id.
    ///
    /// # Errors
    /// [`Error::File`] if hardly any of the ids are used.
    #[cfg(feature = "constrained")]
    pub(super) fn ids(&self) -> Result<u32> {
        let most = self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if most > (1 << 16) + 4 * self.size() || most >= 1 << 23 {
            return Err(self.error(format!("{} tokens have ids up to {}", self.size(), most - 1)));
        }
        Ok(most as u32)
    }

    /// Tokenizes a text; `special` adds the special tokens of the post-processor.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] for this tokenizer, [`Error::File`] if the library fails.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        if text.len() > self.longest {
            return Err(Error::TextTooLong { bytes: text.len(), most: self.longest });
        }
        contained(|| Ok(self.inner.encode(text, special)?.get_ids().to_vec())).map_err(|e| self.error(e))
    }

    /// Decodes token ids, without special tokens.
    ///
    /// # Errors
    /// [`Error::File`] if the library fails.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        contained(|| self.inner.decode(ids, true)).map_err(|e| self.error(e))
    }

    fn error(&self, message: String) -> Error {
        Error::File { path: self.path.clone(), message }
    }
}

#[cfg(test)]
mod tests;
