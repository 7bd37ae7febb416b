//! Conversations in full, as chat templates see them: tools, calls, results, documents, thoughts.
//!
//! Messages are prepared as transformers 5 prepares them before it renders (`chat_template_utils.py`): fields that are
//! null are left out, thoughts are found under each of their names, and a message to be continued is cut after its text.

use serde_json::{Map, Value};

use super::chat::Message;
use super::jinja::strip;
use crate::error::{Error, Result};

/// The end of a rendered conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// The start of the model's turn: `add_generation_prompt`.
    #[default]
    Prompt,
    /// The end of the last message.
    Closed,
    /// The text of the last message, for the model to go on: `continue_final_message`.
    Continued,
}

/// A conversation for [`ChatTemplate::render_conversation`](super::ChatTemplate::render_conversation).
///
/// Messages, tools and documents are JSON objects in the form of transformers' `apply_chat_template`: `role`, `content` (a
/// text or a list of parts), `tool_calls`, `tool_call_id`, `reasoning_content`, and whatever else a template reads. The
/// order of their keys is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The messages, at least one.
    pub messages: Vec<Value>,
    /// JSON schemas of tools, if there are any.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from: objects with `title` and `text`.
    pub documents: Option<Vec<Value>>,
    /// The end of the text.
    pub ending: Ending,
    /// Other variables of the template, such as `enable_thinking`; they hide special tokens of the same name.
    pub variables: Map<String, Value>,
    /// Name of the template, for models with several; `None`: `tool_use` if there are tools, else `default`.
    pub template: Option<String>,
}

/// Names under which thoughts of a message are passed; templates read the first, those of gpt-oss the second.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Variables that a conversation has fields for.
const FIELDS: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Stands for the end of the continued text while a template runs. The space tells whether the template trims.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Request(message.into()))
}

/// A message without fields that are null, with its thoughts under the names that templates read.
fn prepared(message: &Value, index: usize) -> Result<Map<String, Value>> {
    let Value::Object(fields) = message else {
        return refuse(format!("message {index} of the conversation is not an object"));
    };
    let mut fields: Map<String, Value> =
        fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(thought) = THOUGHTS.iter().find_map(|name| fields.get(*name)).cloned() {
        let mut all = Map::new();
        all.insert("thinking".to_owned(), thought.clone());
        all.extend(std::mem::take(&mut fields));
        all.insert("reasoning_content".to_owned(), thought);
        fields = all;
    }
    Ok(fields)
}

impl Conversation {
    /// A conversation of texts that ends with the start of the model's turn. `thinking` is `enable_thinking`.
    pub fn of(messages: &[Message], thinking: Option<bool>) -> Self {
        let text = |m: &Message| serde_json::json!({"role": m.role, "content": m.content});
        let variables = thinking.map(|on| ("enable_thinking".to_owned(), Value::Bool(on))).into_iter().collect();
        Self { messages: messages.iter().map(text).collect(), variables, ..Self::default() }
    }

    /// The messages as the template sees them, and the text to continue.
    pub(super) fn prepared(&self, source: &str) -> Result<(Vec<Value>, Option<String>)> {
        if self.messages.is_empty() {
            return Err(Error::NoMessages);
        }
        for (what, list) in [("tool", &self.tools), ("document", &self.documents)] {
            if let Some(index) = list.iter().flatten().position(|v| !v.is_object()) {
                return refuse(format!("{what} {index} of the conversation is not an object"));
            }
        }
        if let Some(name) = FIELDS.iter().find(|n| self.variables.contains_key(**n)) {
            return refuse(format!("`{name}` is a field of a conversation, not a variable"));
        }
        let mut messages = self.messages.iter().enumerate().map(|(i, m)| prepared(m, i)).collect::<Result<Vec<_>>>()?;
        let text = match messages.last_mut() {
            Some(last) if self.ending == Ending::Continued => Some(mark(last, source)?),
            _ => None,
        };
        Ok((messages.into_iter().map(Value::Object).collect(), text))
    }
}

/// Marks the end of the text of a message; returns the text.
fn mark(message: &mut Map<String, Value>, source: &str) -> Result<String> {
    if !source.contains("content") {
        return refuse("the chat template does not read `content`: the last message can't be continued");
    }
    let text = match message.get_mut("content") {
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }),
        _ => None,
    };
    let Some(text) = text else { return refuse("the last message has no text to continue") };
    let before = text.clone();
    text.push_str(MARK);
    Ok(before)
}

/// Cuts a rendered conversation after the text to continue.
pub(super) fn cut(mut rendered: String, text: &str) -> Result<String> {
    let found = rendered.rfind(MARK.trim_end()).filter(|_| rendered.contains(strip(text, None, true, true)));
    let Some(at) = found else {
        return refuse("the chat template changes or drops the text of the last message: it can't be continued");
    };
    let trims = !rendered[at..].starts_with(MARK);
    rendered.truncate(at);
    if trims {
        rendered.truncate(strip(&rendered, None, false, true).len());
    }
    Ok(rendered)
}

#[cfg(test)]
mod tests;
