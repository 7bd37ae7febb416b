//! Tokens as the bytes that they add to a text, as the decoder of `tokenizer.json` makes them.
//!
//! Decoders: <https://huggingface.co/docs/tokenizers/api/decoders>. A text made of these bytes is the decoded one, to the
//! byte; [`Spelling::starts_as_is`] says which tokens a decoder changes at the start of a text.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

/// How a decoder spells tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spelling {
    steps: Vec<Step>,
    start: Start,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Every character stands for a byte; tokens with other characters are texts.
    ByteLevel,
    /// `<0x0A>` is a byte.
    ByteFallback,
    Replace(String, String),
}

/// What happens at the start of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    AsIs,
    /// This text is dropped if it begins with it.
    Stripped(String),
    /// Drops this everywhere in the first token.
    Dropped(char),
}

/// The characters of byte-level vocabularies: GPT-2's `bytes_to_unicode`.
fn byte_of(c: char) -> Option<u8> {
    static TABLE: OnceLock<HashMap<char, u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let own = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut others = (0x100u32..).filter_map(char::from_u32);
        (0..=255u8).filter_map(|b| Some((if own(b) { char::from(b) } else { others.next()? }, b))).collect()
    });
    table.get(&c).copied()
}

impl Spelling {
    /// The spelling of a decoder, as JSON.
    ///
    /// # Errors
    /// The decoder whose tokens have no bytes of their own.
    pub(crate) fn of(decoder: &Value) -> Result<Self, String> {
        let mut spelling = Self { steps: Vec::new(), start: Start::AsIs };
        let mut fused = false;
        let name = |d: &Value| d["type"].as_str().unwrap_or("none").to_owned();
        let all = match decoder["decoders"].as_array() {
            Some(all) if decoder["type"] == "Sequence" => all.as_slice(),
            _ => std::slice::from_ref(decoder),
        };
        for one in all {
            let text = |field: &str| one[field].as_str().map(str::to_owned);
            match name(one).as_str() {
                "ByteLevel" if !fused => {
                    spelling.steps.push(Step::ByteLevel);
                    fused = true;
                }
                "ByteFallback" if !fused => spelling.steps.push(Step::ByteFallback),
                "Fuse" => fused = true,
                "Replace" if !fused => match (one["pattern"]["String"].as_str(), text("content")) {
                    (Some(from), Some(to)) if !from.is_empty() => {
                        spelling.steps.push(Step::Replace(from.to_owned(), to));
                    }
                    _ => return Err("Replace of an expression".to_owned()),
                },
                "Strip" if fused && one["stop"] == 0 && spelling.start == Start::AsIs => match text("content") {
                    Some(content) if one["start"].as_u64().is_some_and(|n| n > 0) && !content.is_empty() => {
                        spelling.start = Start::Stripped(content);
                    }
                    Some(_) if one["start"] == 0 => {}
                    _ => return Err("Strip".to_owned()),
                },
                "Metaspace" if !fused && all.len() == 1 => {
                    let mark = text("replacement").and_then(|t| t.chars().next()).unwrap_or('▁');
                    spelling.steps.push(Step::Replace(mark.to_string(), " ".to_owned()));
                    if one["prepend_scheme"] != "never" {
                        spelling.start = Start::Dropped(mark);
                    }
                }
                other => return Err(other.to_owned()),
            }
        }
        Ok(spelling)
    }

    /// The bytes of a token after another one.
    pub(crate) fn bytes(&self, token: &str) -> Vec<u8> {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::Replace(from, to) => text = text.replace(from.as_str(), to),
                Step::ByteFallback => {
                    let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|t| t.len() == 2);
                    if let Some(byte) = digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
                        return vec![byte];
                    }
                }
                Step::ByteLevel => {
                    return text.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| text.into_bytes());
                }
            }
        }
        text.into_bytes()
    }

    /// Whether a token has the same bytes at the start of a text.
    #[cfg(any(feature = "constrained", test))]
    pub(crate) fn starts_as_is(&self, token: &str) -> bool {
        match &self.start {
            Start::AsIs => true,
            Start::Stripped(text) => !self.bytes(token).starts_with(text.as_bytes()),
            Start::Dropped(mark) => !token.contains(*mark),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_have_the_bytes_of_their_decoder() {
        let level = Spelling::of(&json!({"type": "ByteLevel"})).expect("bytes");
        assert_eq!(level.bytes("Ġa"), b" a");
        assert_eq!(level.bytes("Ã"), [0xC3], "half of a character");
        assert_eq!(level.bytes("a b"), b"a b", "an added token with a space");
        assert_eq!(level.bytes("Ń"), [0xAD]);
        assert!(level.starts_as_is("Ġa"));
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let llama = Spelling::of(&llama).expect("bytes");
        assert_eq!(
            (llama.bytes("▁the"), llama.bytes("<0xE2>"), llama.bytes("<0xZZ>")),
            (b" the".to_vec(), vec![0xE2], b"<0xZZ>".to_vec())
        );
        assert!(!llama.starts_as_is("▁the") && llama.starts_as_is("the"));
        let meta = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let meta = Spelling::of(&meta).expect("bytes");
        assert_eq!(meta.bytes("a▁b"), b"a b");
        assert!(!meta.starts_as_is("a▁b") && meta.starts_as_is("ab"));
    }

    #[test]
    fn decoders_that_look_at_neighbours_are_named() {
        for (decoder, named) in [
            (json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "WordPiece"),
            (json!(null), "none"),
            (
                json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]}),
                "Replace",
            ),
            (json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}), "Replace of an expression"),
        ] {
            assert_eq!(Spelling::of(&decoder).expect_err(named), named);
        }
    }
}
