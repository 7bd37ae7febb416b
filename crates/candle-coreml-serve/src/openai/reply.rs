//! The objects that answers consist of.

use candle_coreml::generation::StopReason;
use serde_json::{Value, json};

/// Which kind of request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Text,
}

/// What all objects of one answer say.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    form: Form,
    id: String,
    created: u64,
    model: String,
}

/// Numbers of tokens.
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

/// Why an answer ended, in OpenAI's words.
pub(super) fn finish_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::EndOfText | StopReason::StopText => "stop",
        // Nothing here cancels an answer that somebody still reads.
        StopReason::MaxTokens | StopReason::WindowFull | StopReason::Cancelled => "length",
    }
}

impl Reply {
    pub(super) fn new(form: Form, model: &str) -> Self {
        let prefix = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
        let id = format!("{prefix}-{}", uuid::Uuid::new_v4().simple());
        Self { form, id, created: crate::app::now(), model: model.to_owned() }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices})
    }

    /// A whole answer.
    pub(super) fn whole(&self, text: &str, reason: StopReason, usage: Usage) -> Value {
        let reason = finish_reason(reason);
        let mut object = match self.form {
            Form::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason});
                self.object("chat.completion", json!([choice]))
            }
            Form::Text => {
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason});
                self.object("text_completion", json!([choice]))
            }
        };
        object["usage"] = usage.object();
        object
    }

    fn chunk(&self, delta: Value, text: &str, reason: Option<StopReason>) -> Value {
        let reason = reason.map(finish_reason);
        match self.form {
            Form::Chat => {
                let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
                self.object("chat.completion.chunk", json!([choice]))
            }
            Form::Text => {
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason});
                self.object("text_completion", json!([choice]))
            }
        }
    }

    /// What a stream begins with, if it does.
    pub(super) fn opening(&self) -> Option<Value> {
        (self.form == Form::Chat).then(|| self.chunk(json!({"role": "assistant", "content": ""}), "", None))
    }

    /// A piece of text.
    pub(super) fn piece(&self, text: &str) -> Value {
        self.chunk(json!({"content": text}), text, None)
    }

    /// What says why a stream ends.
    pub(super) fn closing(&self, reason: StopReason) -> Value {
        self.chunk(json!({}), "", Some(reason))
    }

    /// The figures at the end of a stream that asked for them.
    pub(super) fn figures(&self, usage: Usage) -> Value {
        let kind = if self.form == Form::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut object = self.object(kind, json!([]));
        object["usage"] = usage.object();
        object
    }
}
