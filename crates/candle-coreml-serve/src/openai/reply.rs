//! Response objects.

use candle_coreml::generation::StopReason;
use serde_json::{Value, json};

use super::split::{Call, Part};

/// The route being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    Chat,
    Text,
}

/// Fields shared by all objects of one answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    kind: ReplyKind,
    id: String,
    created: u64,
    model: String,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    pub(super) cached: usize,
    pub(super) completion: usize,
    /// Those of `completion` that were thoughts.
    pub(super) thought: usize,
}

impl Usage {
    pub(super) fn add(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.completion += other.completion;
        self.thought += other.thought;
    }

    fn object(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.thought},
        })
    }
}

/// OpenAI's name for a stop reason.
pub(super) fn finish_reason(reason: StopReason, called: bool) -> &'static str {
    match reason {
        StopReason::EndOfText | StopReason::StopText if called => "tool_calls",
        StopReason::EndOfText | StopReason::StopText => "stop",
        // A cancelled answer has no reader.
        StopReason::MaxTokens | StopReason::WindowFull | StopReason::Cancelled => "length",
    }
}

/// A new identifier.
pub(super) fn id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}

/// The identifier of a call: the model's own, which its template may insist on, or a new one.
pub(super) fn call_id(call: &Call) -> String {
    call.id.clone().unwrap_or_else(|| id("call_"))
}

/// The object of a call. Its index is there in streams.
fn call_object(call: &Call, index: Option<usize>) -> Value {
    let function = json!({"name": call.name, "arguments": call.arguments});
    let mut object = json!({"id": call_id(call), "type": "function", "function": function});
    if let Some(index) = index {
        object["index"] = index.into();
    }
    object
}

/// What one answer of several has said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) reasoning: String,
    pub(super) content: String,
    pub(super) calls: Vec<Call>,
    pub(super) logprobs: Value,
    pub(super) reason: &'static str,
}

impl Said {
    pub(super) fn push(&mut self, part: Part) {
        match part {
            Part::Reasoning(text) => self.reasoning.push_str(&text),
            Part::Content(text) => self.content.push_str(&text),
            Part::Call(call) => self.calls.push(call),
        }
    }

    fn message(&self) -> Value {
        let content = if self.content.is_empty() && !self.calls.is_empty() { Value::Null } else { json!(self.content) };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = json!(self.reasoning);
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.iter().map(|c| call_object(c, None)).collect();
        }
        message
    }
}

impl Reply {
    pub(super) fn new(kind: ReplyKind, model: &str) -> Self {
        let prefix = if kind == ReplyKind::Chat { "chatcmpl-" } else { "cmpl-" };
        Self { kind, id: id(prefix), created: crate::state::now(), model: model.to_owned() }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices})
    }

    /// Complete answers, in order.
    pub(super) fn whole(&self, answers: &[Said], usage: Usage) -> Value {
        let choices = answers.iter().enumerate().map(|(index, said)| {
            let (logprobs, reason) = (&said.logprobs, said.reason);
            match self.kind {
                ReplyKind::Chat => {
                    json!({"index": index, "message": said.message(), "logprobs": logprobs, "finish_reason": reason})
                }
                ReplyKind::Text => {
                    json!({"index": index, "text": said.content, "logprobs": logprobs, "finish_reason": reason})
                }
            }
        });
        let kind = if self.kind == ReplyKind::Chat { "chat.completion" } else { "text_completion" };
        let mut object = self.object(kind, choices.collect());
        object["usage"] = usage.object();
        object
    }

    fn chunk(&self, index: usize, delta: Value, text: &str, logprobs: Value, reason: Option<&str>) -> Value {
        match self.kind {
            ReplyKind::Chat => {
                let choice = json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason});
                self.object("chat.completion.chunk", json!([choice]))
            }
            ReplyKind::Text => {
                let choice = json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason});
                self.object("text_completion", json!([choice]))
            }
        }
    }

    /// The first chunk of an answer, if the route has one before the text.
    pub(super) fn first_chunk(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        (self.kind == ReplyKind::Chat).then(|| self.chunk(index, delta, "", Value::Null, None))
    }

    /// The chunk of a part. `called` counts the calls before it.
    pub(super) fn part_chunk(&self, index: usize, part: &Part, called: usize, logprobs: Value) -> Value {
        let (delta, text) = match part {
            Part::Content(text) => (json!({"content": text}), text.as_str()),
            Part::Reasoning(text) => (json!({"reasoning_content": text}), text.as_str()),
            Part::Call(call) => (json!({"tool_calls": [call_object(call, Some(called))]}), ""),
        };
        self.chunk(index, delta, text, logprobs, None)
    }

    /// The chunk with the finish reason.
    pub(super) fn last_chunk(&self, index: usize, reason: &str, logprobs: Value) -> Value {
        self.chunk(index, json!({}), "", logprobs, Some(reason))
    }

    /// The usage chunk, at the end of a stream that requested it.
    pub(super) fn usage_chunk(&self, usage: Usage) -> Value {
        let kind = if self.kind == ReplyKind::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut object = self.object(kind, json!([]));
        object["usage"] = usage.object();
        object
    }
}
