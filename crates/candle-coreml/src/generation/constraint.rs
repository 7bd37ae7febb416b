//! Answers in a given form (feature `constrained`): JSON of a schema, a regular expression, a grammar.
//!
//! [llguidance](https://github.com/guidance-ai/llguidance) says which bytes may follow; tokens are allowed if all of their
//! bytes are. The bytes are those of the tokenizer's decoder (`vocabulary/bytes.rs`), so the text of an answer, as it is
//! decoded, is in the form, whatever its tokens.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::processors::{LogitsProcessor, Seen};
use super::text::Tokenizer;
use super::vocabulary::{Vocabulary, contained};
use crate::error::{Error, Result};

/// White space between the parts of JSON: a space, or a line break and its indentation. Without an end to it, a model could
/// write nothing else.
const SPACE: &str = r"\x20|\x0A(\x20{0,24}|\x09{0,8})";

/// Longest token in bytes that constrained answers use.
const LONGEST: usize = 512;

/// Longest expression or grammar in bytes.
const LONGEST_GRAMMAR: usize = 1 << 20;

/// White space in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// A space, or a line break with indentation, between any two parts.
    Flexible,
    /// A space behind colons and commas and none elsewhere, as chat templates write JSON (`tojson`).
    Fixed,
}

/// The form of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    Regex(String),
    Lark(String),
}

fn refuse<T>(message: impl std::fmt::Display) -> Result<T> {
    Err(Error::Request(message.to_string()))
}

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self(Form::Lark(format!("start: %json {}", spaced(json!({"type": "object"}), Spacing::Flexible))))
    }

    /// JSON that a schema accepts. Members of objects come in the order of the schema's `properties`.
    ///
    /// # Errors
    /// If the schema is neither an object nor a boolean, or has options of the library (`x-guidance`). Keywords that can't
    /// be enforced are refused by [`Constraint::new`].
    pub fn json_schema(schema: &Value) -> Result<Self> {
        Ok(Self(Form::Lark(format!("start: {}", Self::json_rule(schema, Spacing::Flexible)?))))
    }

    /// A schema as the right side of a rule in a [`lark`](Self::lark) grammar.
    ///
    /// # Errors
    /// Same as [`Grammar::json_schema`].
    pub fn json_rule(schema: &Value, spacing: Spacing) -> Result<String> {
        match schema {
            Value::Object(fields) if fields.contains_key("x-guidance") => {
                refuse("the schema has `x-guidance`, which is not a keyword of JSON schema")
            }
            Value::Object(_) => Ok(format!("%json {}", spaced(schema.clone(), spacing))),
            // `true`: anything.
            Value::Bool(true) => Ok(format!("%json {}", spaced(json!({}), spacing))),
            Value::Bool(false) => refuse("the schema `false` accepts nothing"),
            other => refuse(format!("expected a schema, which is an object, found {other}")),
        }
    }

    /// A text that a regular expression matches as a whole, in the syntax of the `regex` crate.
    ///
    /// # Errors
    /// If it is longer than 1 MiB.
    pub fn regex(pattern: impl Into<String>) -> Result<Self> {
        within(pattern.into()).map(|p| Self(Form::Regex(p)))
    }

    /// A context-free grammar with the rule `start`, in
    /// [llguidance's variant of Lark](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
    ///
    /// # Errors
    /// If it is longer than 1 MiB.
    pub fn lark(grammar: impl Into<String>) -> Result<Self> {
        within(grammar.into()).map(|g| Self(Form::Lark(g)))
    }
}

fn within(text: String) -> Result<String> {
    if text.len() > LONGEST_GRAMMAR {
        return refuse(format!("a grammar has at most {LONGEST_GRAMMAR} bytes, found {}", text.len()));
    }
    Ok(text)
}

fn spaced(mut schema: Value, spacing: Spacing) -> Value {
    schema["x-guidance"] = match spacing {
        Spacing::Flexible => json!({"whitespace_pattern": SPACE}),
        Spacing::Fixed => json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}),
    };
    schema
}

/// The tokens of a tokenizer as bytes.
pub(crate) struct Spelled {
    factory: ParserFactory,
    /// Tokens that a decoder changes at the start of a text.
    not_first: Vec<u32>,
    /// Stands for all tokens that end an answer: the id behind the last one.
    end: u32,
}

impl Spelled {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self> {
        let spelling = vocabulary.spelling().as_ref().map_err(|decoder| {
            Error::Request(format!(
                "the tokenizer's decoder ({decoder}) makes a token's text depend on its neighbours: answers can't be \
                 constrained exactly"
            ))
        })?;
        let mut not_first = Vec::new();
        let mut words = Vec::new();
        for id in 0..vocabulary.ids()? {
            let token = vocabulary.token(id).filter(|_| !vocabulary.is_special(id));
            // Tokens without bytes are never allowed.
            let bytes = token.as_ref().map(|t| spelling.bytes(t)).filter(|b| b.len() <= LONGEST).unwrap_or_default();
            if token.is_some_and(|t| !spelling.starts_as_is(&t)) {
                not_first.push(id);
            }
            // The library takes this byte, which is in no UTF-8, for the mark of a special token.
            words.push(if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { bytes });
        }
        let end = words.len() as u32;
        words.push(b"\xFF<end>".to_vec());
        let built = contained(|| {
            let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let caps = InferenceCapabilities::default();
            let slices = llguidance::earley::SlicedBiasComputer::general_slices();
            let mut factory = ParserFactory::new(&env, caps, &slices)?;
            factory.quiet();
            *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
            Ok(factory)
        });
        let factory = built.map_err(|e| Error::Request(format!("the tokenizer can't be constrained: {}", line(&e))))?;
        Ok(Self { factory, not_first, end })
    }
}

/// The first line of a message of the library.
fn line(message: &str) -> &str {
    message.lines().find(|l| !l.trim().is_empty()).unwrap_or("no reason given").trim()
}

/// Keeps an answer in the form of a [`Grammar`]: what can't follow gets the logit −∞, and the answer ends where nothing
/// can.
///
/// If tokens run out before the form is complete, the text is the beginning of one.
///
/// ```
/// # std::env::set_current_dir("../..")?;
/// use candle_coreml::LanguageModel;
/// use candle_coreml::generation::{Constraint, Grammar, Options, Processors};
///
/// let mut model = LanguageModel::load_from_directory("models/tiny-qwen3", None)?;
/// let mut processors = Processors::default();
/// processors.push(Constraint::new(model.tokenizer(), &Grammar::regex("yes|no")?)?);
/// let prompt = model.tokenize("Is 2 less than 3? ")?;
/// let answer = model.generate_tokens(&prompt, Options { processors, ..Options::default() }, |_| {})?;
/// assert!(["yes", "no"].contains(&answer.text.as_str()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Constraint {
    spelled: Arc<Spelled>,
    begin: Matcher,
    matcher: Matcher,
    end: Arc<[u32]>,
    chosen: usize,
    complete: bool,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("chosen", &self.chosen).field("complete", &self.complete).finish()
    }
}

impl Constraint {
    /// Compiles a grammar for the tokens of a tokenizer. The first one for a tokenizer takes longer than the others.
    ///
    /// # Errors
    /// [`Error::Request`] if the grammar is malformed, too large, or has keywords that can't be enforced, which are named; if
    /// the tokenizer's decoder makes the text of a token depend on its neighbours.
    pub fn new(tokenizer: &Tokenizer, grammar: &Grammar) -> Result<Self> {
        let spelled = tokenizer.spelled()?;
        let top = match &grammar.0 {
            Form::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Form::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let mut begin = match contained(|| Ok(Matcher::new(spelled.factory.create_parser(top)))) {
            Ok(begin) => begin,
            Err(e) => return refuse(format!("the form of the answer can't be used: {}", line(&e))),
        };
        if let Some(message) = begin.get_error().or_else(|| begin.grammar_warnings().into_iter().next()) {
            return refuse(format!("the form of the answer can't be used: {}", line(&message)));
        }
        let complete = begin.is_stopped();
        let matcher = begin.deep_clone();
        Ok(Self { spelled, begin, matcher, end: tokenizer.end_tokens().into(), chosen: 0, complete })
    }

    fn failed(error: impl std::fmt::Display) -> Error {
        Error::Request(format!("the form of the answer is too costly to follow: {}", line(&error.to_string())))
    }

    fn mask(&mut self, mask: &SimpleVob, logits: &mut [f32]) {
        let mut rule_out = |id: u32| {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        };
        let ended = mask.is_allowed(self.spelled.end);
        if self.chosen == 0 {
            self.spelled.not_first.iter().for_each(|&id| rule_out(id));
        }
        // Special tokens have no bytes: only those that end the answer are ever allowed.
        for (id, logit) in (0u32..).zip(logits.iter_mut()) {
            let allowed = id < self.spelled.end && mask.is_allowed(id);
            if !(allowed || ended && self.end.contains(&id)) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

impl LogitsProcessor for Constraint {
    fn fresh(&self) -> Box<dyn LogitsProcessor> {
        Box::new(Self {
            spelled: self.spelled.clone(),
            begin: self.begin.deep_clone(),
            matcher: self.begin.deep_clone(),
            end: self.end.clone(),
            chosen: 0,
            complete: self.begin.is_stopped(),
        })
    }

    fn process(&mut self, _seen: Seen<'_>, logits: &mut [f32]) -> Result<()> {
        let mask = self.matcher.compute_mask_or_eos().map_err(Self::failed)?;
        self.mask(&mask, logits);
        Ok(())
    }

    fn chosen(&mut self, token: u32) -> Result<()> {
        self.chosen += 1;
        if self.end.contains(&token) {
            self.complete = true;
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(Self::failed)?;
        self.complete = self.matcher.is_stopped();
        Ok(())
    }

    fn complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests;
