//! Requests, as those of chats.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::chat;
use crate::error::ApiError;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    pub(super) model: Option<String>,
    pub(super) stream: Option<bool>,
    input: Value,
    instructions: Option<String>,
    max_output_tokens: Option<u64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_logprobs: Option<u64>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<Text>,
    reasoning: Option<Value>,
    include: Option<Vec<String>>,
    metadata: Option<Value>,
    // Refused unless without effect.
    previous_response_id: Option<Value>,
    conversation: Option<Value>,
    background: Option<bool>,
    prompt: Option<Value>,
    truncation: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Text {
    format: Option<Value>,
}

/// What can be included beside the answer.
const LOGPROBS: &str = "message.output_text.logprobs";

/// A conversation as it is put together from items.
#[derive(Default)]
struct Messages {
    all: Vec<Value>,
    /// A thought whose message follows.
    thought: Option<String>,
}

impl Messages {
    /// The assistant's message that goes on, else a new one.
    fn turn(&mut self) -> &mut Value {
        let goes_on = self.all.last().is_some_and(|m| m["role"] == "assistant") && self.thought.is_none();
        if !goes_on {
            let mut message = json!({"role": "assistant", "content": ""});
            if let Some(thought) = self.thought.take() {
                message["reasoning_content"] = thought.into();
            }
            self.all.push(message);
        }
        let last = self.all.len() - 1;
        &mut self.all[last]
    }

    fn add(&mut self, index: usize, item: &Value) -> Result<(), ApiError> {
        let param = |field: &str| format!("input[{index}]{field}");
        let text = |field: &'static str| {
            item[field]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| ApiError::field(param(&format!(".{field}")), "expected a string"))
        };
        match item["type"].as_str() {
            Some("message") | None if item["role"].is_string() => {
                let content = content(&item["content"], &param(".content"))?;
                if item["role"] == "assistant" {
                    self.all.push(json!({"role": "assistant", "content": content}));
                    if let Some(thought) = self.thought.take() {
                        let last = self.all.len() - 1;
                        self.all[last]["reasoning_content"] = thought.into();
                    }
                } else {
                    self.all.push(json!({"role": item["role"], "content": content}));
                }
            }
            Some("function_call") => {
                let function = json!({"name": text("name")?, "arguments": text("arguments")?});
                let call = json!({"id": text("call_id")?, "type": "function", "function": function});
                let turn = self.turn();
                match turn["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => turn["tool_calls"] = json!([call]),
                }
            }
            Some("function_call_output") => {
                let output = content(&item["output"], &param(".output"))?;
                self.all.push(json!({"role": "tool", "tool_call_id": text("call_id")?, "content": output}));
            }
            Some("reasoning") => {
                let parts = item["content"].as_array().into_iter().flatten();
                let thought: String = parts.filter_map(|p| p["text"].as_str()).collect();
                self.thought = Some(thought).filter(|t| !t.is_empty());
            }
            other => {
                let found = other.unwrap_or("none");
                let known = "there are message, function_call, function_call_output, reasoning";
                return Err(ApiError::field(param(".type"), format!("`{found}` is not supported; {known}")));
            }
        }
        Ok(())
    }
}

/// A text, or parts of type `input_text`, `output_text` or `text`.
fn content(value: &Value, param: &str) -> Result<String, ApiError> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let Some(parts) = value.as_array() else {
        return Err(ApiError::field(param, "expected a string or an array of parts"));
    };
    let text = |(i, part): (usize, &Value)| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("input_text" | "output_text" | "text"), Some(text)) => Ok(text.to_owned()),
        (kind, _) => {
            let found = kind.unwrap_or("none");
            Err(ApiError::field(format!("{param}[{i}].type"), format!("`{found}` is not supported, only text")))
        }
    };
    parts.iter().enumerate().map(text).collect()
}

impl Request {
    /// What a response says again of its request.
    pub(super) fn echo(&self) -> Value {
        let format = self.text.as_ref().and_then(|t| t.format.clone()).unwrap_or_else(|| json!({"type": "text"}));
        json!({
            "instructions": self.instructions, "max_output_tokens": self.max_output_tokens,
            "temperature": self.temperature, "top_p": self.top_p, "tools": self.tools.clone().unwrap_or_default(),
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| json!("auto")),
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true), "text": {"format": format},
            "reasoning": self.reasoning, "metadata": self.metadata.clone().unwrap_or_else(|| json!({})),
        })
    }

    fn check(&self) -> Result<(), ApiError> {
        for (param, value) in [
            ("previous_response_id", &self.previous_response_id),
            ("conversation", &self.conversation),
            ("prompt", &self.prompt),
        ] {
            if value.as_ref().is_some_and(|v| !v.is_null()) {
                return Err(ApiError::field(param, "nothing is stored here: send the whole conversation as `input`"));
            }
        }
        if self.background == Some(true) {
            return Err(ApiError::field("background", "is not supported"));
        }
        if self.truncation.as_deref().is_some_and(|t| t != "disabled") {
            return Err(ApiError::field("truncation", "only `disabled` is supported"));
        }
        match self.include.iter().flatten().find(|i| *i != LOGPROBS) {
            Some(other) => Err(ApiError::field("include", format!("`{other}` is not supported; there is {LOGPROBS}"))),
            None => Ok(()),
        }
    }

    /// The chat with the same answer.
    pub(super) fn as_chat(&self) -> Result<chat::Request, ApiError> {
        self.check()?;
        let mut messages = Messages::default();
        if let Some(text) = &self.instructions {
            messages.all.push(json!({"role": "system", "content": text}));
        }
        match &self.input {
            Value::String(text) => messages.all.push(json!({"role": "user", "content": text})),
            Value::Array(items) => items.iter().enumerate().try_for_each(|(i, item)| messages.add(i, item))?,
            _ => return Err(ApiError::field("input", "expected a string or an array of items")),
        }
        let mut fields = Map::from_iter([("messages".to_owned(), Value::Array(messages.all))]);
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                fields.insert(name.to_owned(), value);
            }
        };
        put("max_completion_tokens", json!(self.max_output_tokens));
        put("temperature", json!(self.temperature));
        put("top_p", json!(self.top_p));
        put("parallel_tool_calls", json!(self.parallel_tool_calls));
        if self.include.iter().flatten().any(|i| i == LOGPROBS) || self.top_logprobs.is_some_and(|n| n > 0) {
            put("logprobs", json!(true));
            put("top_logprobs", json!(self.top_logprobs));
        }
        if let Some(tools) = &self.tools {
            let nested = |tool: &Value| json!({"type": tool["type"], "function": tool});
            put("tools", tools.iter().map(nested).collect());
        }
        put(
            "tool_choice",
            match &self.tool_choice {
                Some(named) if named["type"] == "function" => {
                    json!({"type": "function", "function": {"name": named["name"]}})
                }
                other => json!(other),
            },
        );
        if let Some(format) = self.text.as_ref().and_then(|t| t.format.as_ref()) {
            put(
                "response_format",
                match format["type"].as_str() {
                    Some("json_schema") => json!({"type": "json_schema", "json_schema": format}),
                    _ => format.clone(),
                },
            );
        }
        put("reasoning_effort", self.reasoning.as_ref().map_or(Value::Null, |r| r["effort"].clone()));
        serde_json::from_value(Value::Object(fields)).map_err(|e| ApiError::field("input", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: Value) -> Result<chat::Request, ApiError> {
        serde_json::from_value::<Request>(fields).expect("the right types").as_chat()
    }

    #[test]
    fn items_become_messages() {
        let mut messages = Messages::default();
        let items = json!([
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "x"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
        ]);
        items.as_array().expect("items").iter().enumerate().for_each(|(i, v)| messages.add(i, v).expect("an item"));
        let call =
            |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        let expected = json!([
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call("1", "f"), call("2", "g")]},
            {"role": "tool", "tool_call_id": "1", "content": "x"},
            {"role": "assistant", "content": "c"},
        ]);
        assert_eq!(Value::Array(messages.all), expected);
    }

    #[test]
    fn what_needs_a_store_is_refused_by_name() {
        read(json!({"input": "a", "store": true, "previous_response_id": null, "truncation": "disabled"}))
            .expect("fine");
        for (param, fields) in [
            ("previous_response_id", json!({"input": "a", "previous_response_id": "resp_1"})),
            ("conversation", json!({"input": "a", "conversation": "c"})),
            ("background", json!({"input": "a", "background": true})),
            ("truncation", json!({"input": "a", "truncation": "auto"})),
            ("include", json!({"input": "a", "include": ["file_search_call.results"]})),
            ("input", json!({"input": 3})),
            ("input[0].type", json!({"input": [{"type": "web_search_call"}]})),
            ("input[0].content[0].type", json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]})),
            ("input[0].name", json!({"input": [{"type": "function_call", "call_id": "1", "arguments": ""}]})),
        ] {
            let error = read(fields).expect_err(param);
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{}", error.message);
        }
    }
}
