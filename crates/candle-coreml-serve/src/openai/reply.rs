//! Response objects.

use candle_coreml::generation::StopReason;
use serde_json::{Value, json};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    pub(super) cached: usize,
    pub(super) completion: usize,
}

impl Usage {
    fn object(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}

/// OpenAI's name for a stop reason.
pub(super) fn finish_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::EndOfText | StopReason::StopText => "stop",
        // A cancelled answer has no reader.
        StopReason::MaxTokens | StopReason::WindowFull | StopReason::Cancelled => "length",
    }
}

impl Reply {
    pub(super) fn new(kind: ReplyKind, model: &str) -> Self {
        let prefix = if kind == ReplyKind::Chat { "chatcmpl" } else { "cmpl" };
        let id = format!("{prefix}-{}", uuid::Uuid::new_v4().simple());
        Self { kind, id, created: crate::state::now(), model: model.to_owned() }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices})
    }

    /// A complete answer.
    pub(super) fn whole(&self, text: &str, reason: StopReason, usage: Usage) -> Value {
        let reason = finish_reason(reason);
        let mut object = match self.kind {
            ReplyKind::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason});
                self.object("chat.completion", json!([choice]))
            }
            ReplyKind::Text => {
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason});
                self.object("text_completion", json!([choice]))
            }
        };
        object["usage"] = usage.object();
        object
    }

    fn chunk(&self, delta: Value, text: &str, reason: Option<StopReason>) -> Value {
        let reason = reason.map(finish_reason);
        match self.kind {
            ReplyKind::Chat => {
                let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
                self.object("chat.completion.chunk", json!([choice]))
            }
            ReplyKind::Text => {
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason});
                self.object("text_completion", json!([choice]))
            }
        }
    }

    /// The first chunk of a stream, if the route has one before the text.
    pub(super) fn first_chunk(&self) -> Option<Value> {
        (self.kind == ReplyKind::Chat).then(|| self.chunk(json!({"role": "assistant", "content": ""}), "", None))
    }

    /// A text chunk.
    pub(super) fn text_chunk(&self, text: &str) -> Value {
        self.chunk(json!({"content": text}), text, None)
    }

    /// The chunk with the finish reason.
    pub(super) fn last_chunk(&self, reason: StopReason) -> Value {
        self.chunk(json!({}), "", Some(reason))
    }

    /// The usage chunk, at the end of a stream that requested it.
    pub(super) fn usage_chunk(&self, usage: Usage) -> Value {
        let kind = if self.kind == ReplyKind::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut object = self.object(kind, json!([]));
        object["usage"] = usage.object();
        object
    }
}
