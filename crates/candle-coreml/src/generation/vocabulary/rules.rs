//! Rules for a `tokenizer.json`. Field and type names are those of the tokenizers library (0.22).

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::AddedToken;

use super::charsmap;

/// Maximum length of a token, and of the text that decoders may make of one, in bytes.
const LONGEST_TOKEN: usize = 8 << 10;
/// Maximum length of a Unigram piece in bytes: the library stores pieces in a tree whose depth is their length.
const LONGEST_PIECE: usize = 256;
/// Maximum length of a prefix, suffix or replacement in bytes.
const LONGEST_AFFIX: usize = 256;
/// Maximum growth factor of all normalizers together, or all pre-tokenizers together.
const GROWTH: usize = 64;
/// Maximum number of steps of a normalizer, pre-tokenizer, post-processor or decoder.
const STEPS: usize = 64;
/// Maximum number of tokens that a post-processor may add to a text.
const ADDED: usize = 256;
/// Maximum length of a regular expression in bytes.
const LONGEST_PATTERN: usize = 16 << 10;
/// Maximum length of a word for WordPiece, in characters: its time is quadratic.
const LONGEST_WORD: u64 = 256;

/// A broken rule: the field, expected and found.
#[derive(Debug, thiserror::Error)]
#[error("`{field}`: expected {expected}, found {found}")]
pub(super) struct Broken {
    field: String,
    expected: String,
    found: String,
}

fn broken<T>(field: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { field: field.into(), expected: expected.into(), found: found.into() })
}

fn at_most(field: &str, limit: usize, what: &str, found: usize) -> Result<(), Broken> {
    if found > limit { broken(field, format!("at most {limit} {what}"), found.to_string()) } else { Ok(()) }
}

/// Effects of a checked file on a text.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Growth factor.
    pub(super) growth: usize,
    /// Number of bytes prepended.
    pub(super) prefix: usize,
    /// True if a regular expression may backtrack.
    pub(super) backtracks: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct File {
    version: Option<String>,
    pub(super) truncation: Option<Truncation>,
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    pub(super) normalizer: Option<Value>,
    pub(super) pre_tokenizer: Option<Value>,
    pub(super) post_processor: Option<Value>,
    pub(super) decoder: Option<Value>,
    model: Model,
}

#[derive(Debug, Deserialize)]
pub(super) struct Truncation {
    pub(super) max_length: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Added {
    #[serde(flatten)]
    pub(super) token: AddedToken,
}

/// A model without its tables, which are only measured.
#[derive(Debug, Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Table,
    #[serde(default)]
    merges: Merges,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<u64>,
}

/// Tokens of a vocabulary: an object of ids, or a list of pieces with scores.
#[derive(Debug, Default)]
struct Table {
    longest: usize,
    /// Minimum length of a piece in bytes; `None` for an empty table.
    shortest: Option<usize>,
    /// True for a list.
    list: bool,
    /// True if a score is NaN.
    odd: bool,
}

impl Table {
    fn add(&mut self, token: &str) {
        self.longest = self.longest.max(token.len());
        self.shortest = Some(self.shortest.map_or(token.len(), |s| s.min(token.len())));
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Table;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a vocabulary: an object of ids or a list of pieces")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table, A::Error> {
                let mut table = Table::default();
                while let Some((token, _)) = map.next_entry::<String, IgnoredAny>()? {
                    table.add(&token);
                }
                Ok(table)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Table, A::Error> {
                let mut table = Table { list: true, ..Table::default() };
                while let Some((piece, score)) = list.next_element::<(String, f64)>()? {
                    table.add(&piece);
                    table.odd |= !score.is_finite();
                }
                Ok(table)
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

/// BPE merges. Only the shortest right half matters: the library cuts the prefix off it.
#[derive(Debug, Default)]
struct Merges {
    /// Length in bytes; `None` without merges.
    shortest: Option<usize>,
}

/// Length of the right half of a merge: a pair, or `left right`.
struct Right(usize);

impl<'de> Deserialize<'de> for Right {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Half;
        impl<'de> Visitor<'de> for Half {
            type Value = Right;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E>(self, line: &str) -> Result<Right, E> {
                Ok(Right(line.split_once(' ').map_or(0, |(_, right)| right.len())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Right, A::Error> {
                let (_, right) = (pair.next_element::<IgnoredAny>()?, pair.next_element::<String>()?);
                while pair.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Right(right.map_or(0, |r| r.len())))
            }
        }
        deserializer.deserialize_any(Half)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut shortest = None;
                while let Some(Right(length)) = list.next_element()? {
                    shortest = Some(shortest.map_or(length, |s: usize| s.min(length)));
                }
                Ok(Merges { shortest })
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl File {
    /// Checks all parts.
    pub(super) fn check(&self) -> Result<Bounds, Broken> {
        if let Some(version) = self.version.as_ref().filter(|v| *v != "1.0") {
            return broken("version", "1.0", version.chars().take(40).collect::<String>());
        }
        let mut bounds = Bounds { growth: 1, ..Bounds::default() };
        let mut normalizing = Chain::new("normalizer");
        normalizing.walk(&self.normalizer, "normalizers", normalizer)?;
        let mut splitting = Chain::new("pre_tokenizer");
        splitting.walk(&self.pre_tokenizer, "pretokenizers", pre_tokenizer)?;
        let mut decoding = Chain::new("decoder");
        decoding.walk(&self.decoder, "decoders", decoder)?;
        let mut completing = Chain::new("post_processor");
        completing.walk(&self.post_processor, "processors", post_processor)?;
        bounds.growth = normalizing.growth * splitting.growth;
        bounds.prefix = (normalizing.prefix * splitting.growth).saturating_add(splitting.prefix);
        bounds.backtracks = [&normalizing, &splitting, &decoding].iter().any(|c| c.backtracks);
        let added = self.added_tokens.iter().map(|t| t.token.content.len()).max().unwrap_or(0);
        let longest = self.model.vocab.longest.max(added);
        at_most("model.vocab", LONGEST_TOKEN, "bytes of a token", longest)?;
        at_most("decoder", LONGEST_TOKEN, "bytes of a decoded token", longest.saturating_mul(decoding.growth))?;
        self.model.check()?;
        Ok(bounds)
    }
}

impl Model {
    fn check(&self) -> Result<(), Broken> {
        for (field, text) in [
            ("model.unk_token", &self.unk_token),
            ("model.continuing_subword_prefix", &self.continuing_subword_prefix),
            ("model.end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            at_most(field, LONGEST_AFFIX, "bytes", text.as_ref().map_or(0, String::len))?;
        }
        if let Some(chars) = self.max_input_chars_per_word.filter(|&n| n > LONGEST_WORD) {
            return broken("model.max_input_chars_per_word", format!("at most {LONGEST_WORD}"), chars.to_string());
        }
        let prefix = self.continuing_subword_prefix.as_ref().map_or(0, String::len);
        if let Some(shortest) = self.merges.shortest.filter(|&s| s < prefix) {
            let expected = format!("right halves of at least the {prefix} bytes of the prefix");
            return broken("model.merges", expected, shortest.to_string());
        }
        if self.vocab.list {
            at_most("model.vocab", LONGEST_PIECE, "bytes of a piece", self.vocab.longest)?;
            if self.vocab.odd {
                return broken("model.vocab", "finite scores", "one that is not");
            }
            if self.vocab.shortest == Some(0) {
                return broken("model.vocab", "pieces", "an empty one");
            }
        }
        if let Some(kind) = self.kind.as_deref()
            && !["BPE", "WordPiece", "WordLevel", "Unigram"].contains(&kind)
        {
            return broken(
                "model.type",
                "BPE, WordPiece, WordLevel or Unigram",
                kind.chars().take(40).collect::<String>(),
            );
        }
        Ok(())
    }
}

/// A sequence of steps.
struct Chain {
    field: &'static str,
    steps: usize,
    growth: usize,
    prefix: usize,
    backtracks: bool,
}

type Step = fn(&mut Chain, &str, &Value) -> Result<(), Broken>;

impl Chain {
    fn new(field: &'static str) -> Self {
        Self { field, steps: 0, growth: 1, prefix: 0, backtracks: false }
    }

    /// Checks a part and, if it is a sequence, its members.
    fn walk(&mut self, part: &Option<Value>, members: &str, step: Step) -> Result<(), Broken> {
        match part {
            None | Some(Value::Null) => Ok(()),
            Some(value) => self.visit(value, members, step),
        }
    }

    fn visit(&mut self, value: &Value, members: &str, step: Step) -> Result<(), Broken> {
        self.steps += 1;
        at_most(self.field, STEPS, "steps", self.steps)?;
        let kind = value.get("type").and_then(Value::as_str);
        let Some(kind) = kind else { return broken(self.field, "an object with a `type`", "none") };
        if kind != "Sequence" {
            return step(self, kind, value);
        }
        match value.get(members).and_then(Value::as_array) {
            Some(all) => all.iter().try_for_each(|v| self.visit(v, members, step)),
            None => broken(self.field, format!("`{members}` of a sequence"), "none"),
        }
    }

    fn grow(&mut self, factor: usize) -> Result<(), Broken> {
        self.growth = self.growth.saturating_mul(factor.max(1));
        self.prefix = self.prefix.saturating_mul(factor.max(1));
        let growth = self.growth;
        if growth > GROWTH {
            return broken(
                self.field,
                format!("a text that becomes at most {GROWTH} times as long"),
                format!("{growth} times"),
            );
        }
        Ok(())
    }

    fn text<'v>(&self, value: &'v Value, key: &str) -> Result<&'v str, Broken> {
        let field = format!("{}.{key}", self.field);
        match value.get(key) {
            Some(Value::String(text)) => {
                at_most(&field, LONGEST_AFFIX, "bytes", text.len())?;
                Ok(text)
            }
            _ => broken(field, "a string", "none"),
        }
    }

    /// Length of the shortest match of a pattern, in bytes.
    fn pattern(&mut self, value: &Value) -> Result<usize, Broken> {
        let field = format!("{}.pattern", self.field);
        let pattern = value.get("pattern");
        if let Some(Value::String(text)) = pattern.and_then(|p| p.get("String")) {
            at_most(&field, LONGEST_PATTERN, "bytes", text.len())?;
            return Ok(text.len());
        }
        let Some(Value::String(regex)) = pattern.and_then(|p| p.get("Regex")) else {
            return broken(field, "`String` or `Regex`", "neither");
        };
        at_most(&field, LONGEST_PATTERN, "bytes", regex.len())?;
        self.backtracks |= may_backtrack(regex);
        Ok(0)
    }

    /// A pattern replacement.
    fn replacement(&mut self, value: &Value) -> Result<(), Broken> {
        let shortest = self.pattern(value)?;
        let content = self.text(value, "content")?.len();
        // A regular expression may match the empty string, between any two bytes.
        self.grow(if shortest == 0 { 1 + content } else { content.div_ceil(shortest) })
    }
}

/// Returns true if a regular expression uses lookarounds or backreferences, which need backtracking. `\s+(?!\S)`, the
/// one lookahead in tokenizers of the GPT family, takes linear time.
fn may_backtrack(regex: &str) -> bool {
    let rest = regex.replace(r"\s+(?!\S)", r"\s+");
    ["(?=", "(?!", "(?<=", "(?<!", "(?(", r"\k", r"\g", r"\G", r"\K"].iter().any(|mark| rest.contains(mark))
        || rest.as_bytes().windows(2).any(|w| w[0] == b'\\' && w[1].is_ascii_digit())
}

fn unknown(chain: &Chain, kind: &str) -> Result<(), Broken> {
    broken(format!("{}.type", chain.field), "a known type", format!("`{}`", kind.chars().take(40).collect::<String>()))
}

fn normalizer(chain: &mut Chain, kind: &str, value: &Value) -> Result<(), Broken> {
    match kind {
        "Strip" | "StripAccents" | "NFC" | "Nmt" => chain.grow(if kind == "NFC" { 3 } else { 1 }),
        // Unicode's maximum: U+1D160 in NFD, U+FDFA in NFKC.
        "NFD" => chain.grow(4),
        "NFKC" | "NFKD" => chain.grow(11),
        "Lowercase" | "ByteLevel" => chain.grow(2),
        // Decomposed, lower case, with spaces around ideographs.
        "BertNormalizer" => chain.grow(8),
        "Replace" => chain.replacement(value),
        "Prepend" => {
            chain.prefix += chain.text(value, "prepend")?.len();
            Ok(())
        }
        "Precompiled" => {
            let Some(Value::String(map)) = value.get("precompiled_charsmap") else {
                return broken("normalizer.precompiled_charsmap", "a string", "none");
            };
            match charsmap::growth(map) {
                Ok(growth) => chain.grow(growth),
                Err(found) => broken("normalizer.precompiled_charsmap", "a trie and its texts", found),
            }
        }
        other => unknown(chain, other),
    }
}

fn pre_tokenizer(chain: &mut Chain, kind: &str, value: &Value) -> Result<(), Broken> {
    match kind {
        "BertPreTokenizer" | "CharDelimiterSplit" | "Whitespace" | "WhitespaceSplit" | "Punctuation" | "Digits"
        | "UnicodeScripts" => Ok(()),
        "ByteLevel" => {
            chain.prefix += 1;
            chain.grow(2)
        }
        // A space becomes one character of at most four bytes; one is prepended.
        "Metaspace" => {
            chain.prefix += 4;
            chain.grow(4)
        }
        "Split" => chain.pattern(value).map(drop),
        "FixedLength" => match value.get("length").map(Value::as_u64) {
            None | Some(Some(1..)) => Ok(()),
            _ => broken("pre_tokenizer.length", "at least 1", "0"),
        },
        other => unknown(chain, other),
    }
}

fn decoder(chain: &mut Chain, kind: &str, value: &Value) -> Result<(), Broken> {
    match kind {
        "ByteLevel" | "WordPiece" | "Metaspace" | "ByteFallback" | "Fuse" | "BPEDecoder" => Ok(()),
        // An empty delimiter matches between any two bytes.
        "CTC" => chain.grow(2),
        "Replace" => chain.replacement(value),
        "Strip" => match value.get("stop").map(Value::as_u64) {
            Some(Some(0)) => Ok(()),
            // The library panics if a token is shorter.
            Some(Some(stop)) => broken("decoder.stop", "0", stop.to_string()),
            _ => broken("decoder.stop", "0", "none"),
        },
        other => unknown(chain, other),
    }
}

fn post_processor(chain: &mut Chain, kind: &str, value: &Value) -> Result<(), Broken> {
    match kind {
        "BertProcessing" | "RobertaProcessing" | "ByteLevel" => Ok(()),
        "TemplateProcessing" => {
            let pieces = value.get("single").and_then(Value::as_array);
            let Some(pieces) = pieces else { return broken("post_processor.single", "a list", "none") };
            let mut texts = 0;
            for piece in pieces {
                if let Some(sequence) = piece.get("Sequence") {
                    texts += 1;
                    if sequence.get("id").and_then(Value::as_str) != Some("A") {
                        return broken("post_processor.single", "the sequence `A`", "another one");
                    }
                    continue;
                }
                let id = piece.get("SpecialToken").and_then(|t| t.get("id")?.as_str());
                let token = id.and_then(|id| value.get("special_tokens")?.get(id));
                let length = |key: &str| token.and_then(|t| Some(t.get(key)?.as_array()?.len()));
                match (length("ids"), length("tokens")) {
                    (Some(ids), Some(tokens)) if ids == tokens => chain.prefix = chain.prefix.saturating_add(ids),
                    _ => {
                        let name: String = id.unwrap_or("a piece").chars().take(40).collect();
                        let expected = format!("`{name}` with as many ids as tokens");
                        return broken("post_processor.special_tokens", expected, "none");
                    }
                }
            }
            // A duplicated text has twice as many tokens.
            at_most("post_processor.single", 1, "texts", texts)?;
            at_most("post_processor", ADDED, "added tokens", chain.prefix)
        }
        other => unknown(chain, other),
    }
}
