//! The items of a response as they grow, and the events that tell of them.

use serde_json::{Value, json};

use super::super::reply::{Usage, call_id, id};
use super::super::split::Part;

/// A response under way.
pub(super) struct Output {
    id: String,
    created: u64,
    model: String,
    /// What it says again of its request.
    echo: Value,
    items: Vec<Value>,
    /// Whether the last item may go on.
    open: bool,
    status: &'static str,
    usage: Value,
    sequence: u64,
}

impl Output {
    pub(super) fn new(model: &str, echo: Value) -> Self {
        Self {
            id: id("resp_"),
            created: crate::state::now(),
            model: model.to_owned(),
            echo,
            items: Vec::new(),
            open: false,
            status: "in_progress",
            usage: Value::Null,
            sequence: 0,
        }
    }

    /// The response as it stands.
    pub(super) fn object(&self) -> Value {
        let details = if self.status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        let mut object = json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": self.status, "model": self.model,
            "output": self.items, "error": null, "incomplete_details": details, "usage": self.usage,
            "previous_response_id": null, "store": false, "background": false, "truncation": "disabled",
        });
        for (name, value) in self.echo.as_object().into_iter().flatten() {
            object[name] = value.clone();
        }
        object
    }

    /// The number of the next event.
    pub(super) fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence - 1
    }

    fn event(&mut self, kind: &str, fields: Value) -> Value {
        let mut event = json!({"type": format!("response.{kind}"), "sequence_number": self.number()});
        for (name, value) in fields.as_object().into_iter().flatten() {
            event[name] = value.clone();
        }
        event
    }

    /// Events at the start.
    pub(super) fn begin(&mut self) -> Vec<Value> {
        let response = self.object();
        ["created", "in_progress"].map(|kind| self.event(kind, json!({"response": response}))).into()
    }

    fn last(&self) -> Value {
        self.items.last().cloned().unwrap_or_default()
    }

    /// Place of a part of the last item.
    fn place(&self) -> Value {
        json!({"item_id": self.last()["id"], "output_index": self.items.len().saturating_sub(1), "content_index": 0})
    }

    fn at(&mut self, kind: &str, fields: Value) -> Value {
        let mut all = self.place();
        for (name, value) in fields.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        self.event(kind, all)
    }

    /// Opens an item of this kind, unless it is open.
    fn open(&mut self, kind: &str, item: Value, part: Option<Value>) -> Vec<Value> {
        if self.open && self.last()["type"] == kind {
            return Vec::new();
        }
        let mut events = self.close();
        self.items.push(item);
        self.open = true;
        let (index, item) = (self.items.len() - 1, self.last());
        events.push(self.event("output_item.added", json!({"output_index": index, "item": item})));
        if let Some(part) = part {
            events.push(self.at("content_part.added", json!({"part": part})));
            if let Some(last) = self.items.last_mut() {
                last["content"] = json!([part]);
            }
        }
        events
    }

    /// Closes the last item.
    fn close(&mut self) -> Vec<Value> {
        if !std::mem::take(&mut self.open) {
            return Vec::new();
        }
        if let Some(last) = self.items.last_mut() {
            last["status"] = json!("completed");
        }
        let item = self.last();
        let part = item["content"][0].clone();
        let mut events = Vec::new();
        match item["type"].as_str() {
            Some("message") => {
                let done = json!({"text": part["text"], "logprobs": part["logprobs"]});
                events.push(self.at("output_text.done", done));
                events.push(self.at("content_part.done", json!({"part": part})));
            }
            Some("reasoning") => {
                events.push(self.at("reasoning_text.done", json!({"text": part["text"]})));
                events.push(self.at("content_part.done", json!({"part": part})));
            }
            _ => {}
        }
        let index = self.items.len() - 1;
        events.push(self.event("output_item.done", json!({"output_index": index, "item": item})));
        events
    }

    /// Adds to the text of the last item.
    fn grow(&mut self, text: &str, logprobs: &[Value]) {
        let Some(part) = self.items.last_mut().map(|item| &mut item["content"][0]) else { return };
        if let Value::String(whole) = &mut part["text"] {
            whole.push_str(text);
        }
        if let Some(all) = part["logprobs"].as_array_mut() {
            all.extend_from_slice(logprobs);
        }
    }

    /// Events of a part of the answer. `logprobs` are of its tokens.
    pub(super) fn push(&mut self, part: Part, logprobs: Vec<Value>) -> Vec<Value> {
        match part {
            Part::Content(text) => {
                let item = json!({"type": "message", "id": id("msg_"), "status": "in_progress", "role": "assistant",
                    "content": []});
                let empty = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
                let mut events = self.open("message", item, Some(empty));
                self.grow(&text, &logprobs);
                events.push(self.at("output_text.delta", json!({"delta": text, "logprobs": logprobs})));
                events
            }
            Part::Reasoning(text) => {
                let item = json!({"type": "reasoning", "id": id("rs_"), "summary": [], "content": []});
                let empty = json!({"type": "reasoning_text", "text": ""});
                let mut events = self.open("reasoning", item, Some(empty));
                self.grow(&text, &[]);
                events.push(self.at("reasoning_text.delta", json!({"delta": text})));
                events
            }
            Part::Call(call) => {
                let mut events = self.close();
                let item = json!({"type": "function_call", "id": id("fc_"), "call_id": call_id(&call), "name": call.name,
                    "arguments": "", "status": "in_progress"});
                events.extend(self.open("function_call", item, None));
                if let Some(last) = self.items.last_mut() {
                    last["arguments"] = json!(call.arguments);
                }
                let (item, index) = (self.last()["id"].clone(), self.items.len() - 1);
                let fields = |name: &str| json!({"item_id": item, "output_index": index, name: call.arguments});
                events.push(self.event("function_call_arguments.delta", fields("delta")));
                let mut done = fields("arguments");
                done["name"] = json!(call.name);
                events.push(self.event("function_call_arguments.done", done));
                events.extend(self.close());
                events
            }
        }
    }

    /// Events at the end. `reason` is that of chats.
    pub(super) fn end(&mut self, reason: &str, usage: Usage) -> Vec<Value> {
        let mut events = self.close();
        self.status = if reason == "length" { "incomplete" } else { "completed" };
        self.usage = json!({
            "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion, "output_tokens_details": {"reasoning_tokens": usage.thought},
            "total_tokens": usage.prompt + usage.completion,
        });
        let response = self.object();
        events.push(self.event(self.status, json!({"response": response})));
        events
    }
}
