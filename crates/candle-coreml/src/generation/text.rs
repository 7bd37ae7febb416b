//! Conversion between tokens and text.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

use super::chat::{ChatTemplate, Message};
use super::conversation::{Conversation, Ending};
use super::jinja::TemplateLimits;
use super::vocabulary::Vocabulary;

/// A tokenizer with the end tokens and the chat template from its folder.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    end: Vec<u32>,
    template: Option<ChatTemplate>,
    /// Made for the first constrained answer.
    #[cfg(feature = "constrained")]
    spelled: std::sync::OnceLock<std::sync::Arc<super::constraint::Spelled>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({:?})", self.vocabulary)
    }
}

/// Token texts that end a turn in the families that are supported.
const END_TEXTS: [&str; 6] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>"];

impl Tokenizer {
    /// Reads `tokenizer.json`, or `tokenizer.model` where there is none, and, if present, `tokenizer_config.json`,
    /// `config.json`, `generation_config.json` and `chat_template.jinja`; in the folder that `tokenizer_path` of a
    /// `meta.yaml` names, else in this one.
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
        let settings = settings(folder)?;
        let vocabulary = Vocabulary::of_folder(folder, &settings)?;
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
        let template = ChatTemplate::load(folder, &settings, limits)?;
        end.extend(template.as_ref().and_then(|t| turn_end(t, &vocabulary)));
        end.sort_unstable();
        end.dedup();
        Ok(Self {
            vocabulary,
            end,
            template,
            #[cfg(feature = "constrained")]
            spelled: std::sync::OnceLock::new(),
        })
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

    /// The bytes that a token adds to a text, which may be a part of a character; a special token's are those of its name.
    /// `None` for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.vocabulary.token(id)?;
        Some(match self.vocabulary.spelling() {
            _ if self.vocabulary.is_special(id) => token.into_bytes(),
            Ok(spelling) => spelling.bytes(&token),
            Err(_) => self.decode(&[id]).ok()?.into_bytes(),
        })
    }

    /// Whether a token is special: decoding leaves it out.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.is_special(id)
    }

    /// The tokens as bytes, for constraints.
    #[cfg(feature = "constrained")]
    pub(super) fn spelled(&self) -> Result<std::sync::Arc<super::constraint::Spelled>> {
        if let Some(made) = self.spelled.get() {
            return Ok(made.clone());
        }
        // Two at once make the same.
        let made = std::sync::Arc::new(super::constraint::Spelled::new(&self.vocabulary)?);
        Ok(self.spelled.get_or_init(|| made).clone())
    }

    /// Decodes token ids, without special tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.vocabulary.decode(ids)
    }
}

/// `tokenizer_config.json`. Older folders have the special tokens in `special_tokens_map.json`.
fn settings(folder: &Path) -> Result<serde_json::Value> {
    let mut settings = files::json_if_there(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    if settings.get("added_tokens_decoder").is_none()
        && let Some(serde_json::Value::Object(map)) = files::json_if_there(&folder.join("special_tokens_map.json"))?
    {
        if settings.is_null() {
            settings = serde_json::json!({});
        }
        for (name, token) in map {
            if settings.get(&name).is_none_or(serde_json::Value::is_null) && settings.is_object() {
                settings[name] = token;
            }
        }
    }
    Ok(settings)
}

/// The special token that a chat template writes after an answer, which the model has learnt to end its turns with.
fn turn_end(template: &ChatTemplate, vocabulary: &Vocabulary) -> Option<u32> {
    const ANSWER: &str = "Seven-of-nine";
    let messages = [Message::user("How many?"), Message::assistant(ANSWER)];
    let conversation = Conversation { ending: Ending::Closed, ..Conversation::of(&messages, None) };
    let text = template.render_conversation(&conversation).ok()?;
    let (_, after) = text.rsplit_once(ANSWER)?;
    let first = *vocabulary.encode(after.trim_start(), false).ok()?.first()?;
    vocabulary.is_special(first).then_some(first)
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
    /// Special tokens that are text here.
    shown: Vec<u32>,
}

/// Number of tokens decoded again for context: enough for any decoder that looks at neighbours.
const CONTEXT: usize = 6;

impl<'t> TextStream<'t> {
    /// A stream that stops at any of these texts.
    pub fn new(tokenizer: &'t Tokenizer, stop: Vec<String>) -> Self {
        let stop = stop.into_iter().filter(|s| !s.is_empty()).collect();
        Self { tokenizer, ids: Vec::new(), settled: 0, held: String::new(), stop, stopped: false, shown: Vec::new() }
    }

    /// Shows these special tokens by their names.
    #[must_use]
    pub fn showing(mut self, tokens: Vec<u32>) -> Self {
        self.shown = tokens;
        self
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
        let shown = self.shown.contains(&token) && self.tokenizer.is_special(token);
        if all.ends_with('\u{fffd}') && self.ids.len() - self.settled < 4 && !shown {
            return Ok(String::new());
        }
        self.settled = self.ids.len();
        self.held.push_str(all.strip_prefix(before.as_str()).unwrap_or(&all));
        if shown {
            self.held.push_str(&String::from_utf8_lossy(&self.tokenizer.token_bytes(token).unwrap_or_default()));
        }
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
    use super::{Tokenizer, overlap};

    /// A tokenizer of the special tokens `<e>` (0), `<t>` (1), `<u>` (2) and the word `x` (3), with these files beside it.
    fn tokenizer(files: &[(&str, &str)]) -> Tokenizer {
        let folder = tempfile::tempdir().expect("a folder");
        let added: Vec<_> = ["<e>", "<t>", "<u>"]
            .iter()
            .enumerate()
            .map(|(id, text)| {
                serde_json::json!({"id": id, "content": text, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
            })
            .collect();
        let file = serde_json::json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"<e>": 0, "<t>": 1, "<u>": 2, "x": 3}, "unk_token": "x"}});
        for (name, text) in [("tokenizer.json", file.to_string().as_str())].iter().chain(files) {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        Tokenizer::load(folder.path()).expect("a tokenizer")
    }

    #[test]
    fn turns_end_as_configurations_and_the_template_say() {
        assert!(tokenizer(&[]).end_tokens().is_empty());
        assert_eq!(tokenizer(&[("generation_config.json", r#"{"eos_token_id": [2, 1]}"#)]).end_tokens(), [1, 2]);
        assert_eq!(tokenizer(&[("config.json", r#"{"eos_token_id": 2}"#)]).end_tokens(), [2]);
        assert_eq!(tokenizer(&[("tokenizer_config.json", r#"{"eos_token": {"content": "<e>"}}"#)]).end_tokens(), [0]);
        let old = [("special_tokens_map.json", r#"{"eos_token": "<u>"}"#)];
        assert_eq!(tokenizer(&old).end_tokens(), [2]);
        let both = [old[0], ("tokenizer_config.json", r#"{"eos_token": "<e>"}"#)];
        assert_eq!(tokenizer(&both).end_tokens(), [0]);
        for (template, end) in [
            ("{% for m in messages %}{{ m.content }}\n<t>\n{% endfor %}", &[1][..]),
            ("{% for m in messages %}<t>{{ m.content | trim }}{% endfor %}<u>", &[2]),
            ("{% for m in messages %}<t>{{ m.content }} x<u>{% endfor %}", &[]),
            ("{{ raise_exception('no') }}", &[]),
        ] {
            assert_eq!(tokenizer(&[("chat_template.jinja", template)]).end_tokens(), end, "{template}");
        }
    }

    #[test]
    fn the_longest_beginning_of_a_stop_text_is_held_back() {
        assert_eq!(overlap("one two", "two three"), 3);
        assert_eq!(overlap("abab", "abac"), 2);
        assert_eq!(overlap("", "x"), 0);
        assert_eq!(overlap("é", "éa"), 2);
        assert_eq!(overlap("done", "x"), 0);
    }
}
