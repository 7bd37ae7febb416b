//! Conversion between tokens and text.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

use super::chat::ChatTemplate;
use super::jinja::TemplateLimits;
use super::vocabulary::Vocabulary;

/// A tokenizer with the end tokens and the chat template from its folder.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    end: Vec<u32>,
    template: Option<ChatTemplate>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({:?})", self.vocabulary)
    }
}

/// Token texts that end a turn in the families that are supported.
const END_TEXTS: [&str; 6] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>"];

impl Tokenizer {
    /// Reads `tokenizer.json` and, if present, `tokenizer_config.json`, `config.json`, `generation_config.json` and
    /// `chat_template.jinja`; in the folder that `tokenizer_path` of a `meta.yaml` names, else in this one.
    ///
    /// # Errors
    /// If a file is missing or malformed, or `tokenizer_path` leads out of the folder.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::load_with(folder, TemplateLimits::default())
    }

    /// [`Tokenizer::load`] with explicit limits of the chat template.
    ///
    /// # Errors
    /// Same as [`Tokenizer::load`].
    pub fn load_with(folder: &Path, limits: TemplateLimits) -> Result<Self> {
        let model = &files::beside(folder);
        let folder = &crate::anemll::tokenizer_folder(model)?;
        let vocabulary = Vocabulary::load(&folder.join("tokenizer.json"))?;
        let settings = files::json_if_there(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let mut end = Vec::new();
        for file in ["config.json", "generation_config.json"] {
            let mut config = files::json_if_there(&folder.join(file))?;
            if config.is_none() && folder != model {
                config = files::json_if_there(&model.join(file))?;
            }
            match config.and_then(|c| c.get("eos_token_id").cloned()) {
                Some(serde_json::Value::Array(ids)) => end.extend(ids.iter().filter_map(|i| i.as_u64())),
                Some(id) => end.extend(id.as_u64()),
                None => {}
            }
        }
        let mut end: Vec<u32> = end.into_iter().filter_map(|i| u32::try_from(i).ok()).collect();
        let eos = settings.get("eos_token").map(token_text).unwrap_or_default();
        end.extend(END_TEXTS.iter().copied().chain([eos.as_str()]).filter_map(|t| vocabulary.id(t)));
        end.sort_unstable();
        end.dedup();
        let template = ChatTemplate::load(folder, &settings, limits)?;
        Ok(Self { vocabulary, end, template })
    }

    /// Maximum size of a text that fits `context` tokens.
    #[cfg(feature = "tokio")]
    pub(crate) fn byte_limit(&self, context: usize) -> crate::byte_limit::ByteLimit {
        crate::byte_limit::ByteLimit::new(&self.vocabulary, context)
    }

    /// Tokens that end generation.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The chat template, or an error if there is none.
    pub(crate) fn needed_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or(Error::NoChatTemplate)
    }

    /// Tokenizes a text; special tokens in it are recognised, none are added.
    ///
    /// # Errors
    /// [`Error::TextTooLong`] beyond 16 MiB, or less if the tokenizer's rules require it; if the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.vocabulary.encode(text, false)
    }

    /// Tokenizes a text and adds the special tokens of the post-processor (such as a leading BOS).
    ///
    /// # Errors
    /// [`Error::TextTooLong`] beyond 16 MiB, or less if the tokenizer's rules require it; if the tokenizer fails.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        self.vocabulary.encode(text, true)
    }

    /// Decodes token ids, without special tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.vocabulary.decode(ids)
    }
}

/// A token of `tokenizer_config.json`: a string, or an object with `content`.
pub(super) fn token_text(value: &serde_json::Value) -> String {
    value.as_str().or_else(|| value.get("content")?.as_str()).unwrap_or_default().to_owned()
}

/// Decodes tokens into pieces of valid text.
///
/// Holds back text that may be the start of a stop text or of a character.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    ids: Vec<u32>,
    /// Tokens before this index are settled: their text has been returned.
    settled: usize,
    held: String,
    stop: Vec<String>,
    stopped: bool,
}

/// Number of tokens decoded again for context: enough for any decoder that looks at neighbours.
const CONTEXT: usize = 6;

impl<'t> TextStream<'t> {
    /// A stream that stops at any of these texts.
    pub fn new(tokenizer: &'t Tokenizer, stop: Vec<String>) -> Self {
        let stop = stop.into_iter().filter(|s| !s.is_empty()).collect();
        Self { tokenizer, ids: Vec::new(), settled: 0, held: String::new(), stop, stopped: false }
    }

    /// Returns true if a stop text was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token; returns the text completed by it.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.ids.push(token);
        let start = self.settled.saturating_sub(CONTEXT);
        let before = self.tokenizer.decode(&self.ids[start..self.settled])?;
        let all = self.tokenizer.decode(&self.ids[start..])?;
        // An incomplete character decodes to the replacement character.
        if all.ends_with('\u{fffd}') && self.ids.len() - self.settled < 4 {
            return Ok(String::new());
        }
        self.settled = self.ids.len();
        self.held.push_str(all.strip_prefix(before.as_str()).unwrap_or(&all));
        let found = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min();
        if let Some(at) = found {
            self.stopped = true;
            self.held.truncate(at);
            return Ok(std::mem::take(&mut self.held));
        }
        let keep = self.stop.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        Ok(self.held.drain(..self.held.len() - keep).collect())
    }

    /// The text held back at the end.
    pub fn rest(&mut self) -> String {
        if self.stopped { String::new() } else { std::mem::take(&mut self.held) }
    }
}

/// Length of the longest suffix of `text` that is a prefix of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..=stop.len().min(text.len()))
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.is_char_boundary(text.len() - n) && text.ends_with(&stop[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn the_longest_beginning_of_a_stop_text_is_held_back() {
        assert_eq!(overlap("one two", "two three"), 3);
        assert_eq!(overlap("abab", "abac"), 2);
        assert_eq!(overlap("", "x"), 0);
        assert_eq!(overlap("é", "éa"), 2);
        assert_eq!(overlap("done", "x"), 0);
    }
}
