//! Log-probabilities in OpenAI's two forms.

use candle_coreml::generation::{Probabilities, TokenProbability, Tokenizer};
use serde_json::{Map, Value, json};

/// Stands for −∞, which JSON lacks, as in OpenAI's interface.
const LEAST: f32 = -9999.0;

/// The form that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Of chats: objects with bytes.
    Chat,
    /// Of completions: lists side by side.
    Text,
}

fn number(token: TokenProbability) -> f32 {
    token.log_probability.max(LEAST)
}

/// The text of a token; parts of characters are written as their bytes.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex: String = bytes.iter().map(|b| format!("\\x{b:02x}")).collect();
            format!("bytes:{hex}")
        }
    }
}

fn bytes(tokenizer: &Tokenizer, token: TokenProbability) -> Vec<u8> {
    tokenizer.token_bytes(token.token).unwrap_or_default()
}

fn one(tokenizer: &Tokenizer, token: TokenProbability) -> Map<String, Value> {
    let bytes = bytes(tokenizer, token);
    let mut object = Map::new();
    object.insert("token".to_owned(), text(&bytes).into());
    object.insert("logprob".to_owned(), json!(number(token)));
    object.insert("bytes".to_owned(), json!(bytes));
    object
}

/// Entries of chats: a token, and the most likely ones.
pub(super) fn entries(tokenizer: &Tokenizer, tokens: &[Probabilities]) -> Vec<Value> {
    let entry = |found: &Probabilities| {
        let mut object = one(tokenizer, found.chosen);
        let top: Vec<Value> = found.top.iter().map(|&t| Value::Object(one(tokenizer, t))).collect();
        object.insert("top_logprobs".to_owned(), Value::Array(top));
        Value::Object(object)
    };
    tokens.iter().map(entry).collect()
}

/// Log-probabilities of tokens that follow `offset` characters of text, and the characters with them. `first` is a token
/// without one: that which begins a prompt.
pub(super) fn object(
    form: Form,
    tokenizer: &Tokenizer,
    first: Option<u32>,
    tokens: &[Probabilities],
    offset: &mut usize,
) -> Value {
    if form == Form::Chat {
        return json!({"content": entries(tokenizer, tokens), "refusal": null});
    }
    let (mut names, mut own, mut top, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut place = |token: u32| {
        let bytes = tokenizer.token_bytes(token).unwrap_or_default();
        names.push(text(&bytes));
        offsets.push(*offset);
        *offset += String::from_utf8_lossy(&bytes).chars().count();
    };
    if let Some(token) = first {
        place(token);
        own.push(Value::Null);
        top.push(Value::Null);
    }
    for found in tokens {
        place(found.chosen.token);
        own.push(json!(number(found.chosen)));
        let likely = found.top.iter().map(|&t| (text(&bytes(tokenizer, t)), json!(number(t))));
        top.push(Value::Object(likely.collect()));
    }
    json!({"tokens": names, "token_logprobs": own, "top_logprobs": top, "text_offset": offsets})
}
