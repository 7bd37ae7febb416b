//! Requests and stream events of the Messages API (<https://docs.anthropic.com/en/api/messages-streaming>).

use serde::{Deserialize, Serialize};

use crate::generation::{Message, Options, StopReason};

/// Name and value of the API version header.
pub(super) const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");

/// Body of a request.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    model: &'a str,
    max_tokens: usize,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'a str,
    content: &'a str,
}

impl<'a> Body<'a> {
    /// Builds a request. The API wants system messages separate, no empty messages, and a user message first; `None` if
    /// the conversation has nothing to answer.
    pub(super) fn new(model: &'a str, messages: &'a [Message], options: &'a Options) -> Option<Self> {
        let spoken = |m: &&Message| m.role != "system" && !m.content.trim().is_empty();
        let system: Vec<&str> = messages.iter().filter(|m| m.role == "system").map(|m| m.content.as_str()).collect();
        let turns = messages.iter().filter(spoken).skip_while(|m| m.role != "user");
        let messages: Vec<Turn<'_>> = turns.map(|m| Turn { role: &m.role, content: &m.content }).collect();
        messages.last().filter(|last| last.role == "user")?;
        Some(Self {
            model,
            max_tokens: options.max_tokens.max(1),
            stream: true,
            system: Some(system.join("\n\n")).filter(|s| !s.trim().is_empty()),
            messages,
            // Omit 0, our default: sent, it would override the server's own default.
            temperature: Some(options.sampling.temperature).filter(|t| *t > 0.0).map(|t| t.min(1.0)),
            stop_sequences: &options.stop,
        })
    }
}

/// An event of the stream. Unknown types may be added at any time and are skipped.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockDelta {
        delta: Delta,
    },
    MessageDelta {
        delta: End,
        usage: Option<Usage>,
    },
    MessageStop,
    Error {
        error: ApiError,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Start {
    pub(super) usage: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Delta {
    TextDelta {
        text: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct End {
    pub(super) stop_reason: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) input_tokens: usize,
    #[serde(default)]
    pub(super) output_tokens: usize,
}

/// Error object, in a stream or as the response to a request.
#[derive(Default, Deserialize)]
pub(super) struct ApiError {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) message: String,
}

/// Body of an error response.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    pub(super) error: ApiError,
}

/// Maps a stop reason; `None` if the model refused.
pub(super) fn stop_reason(name: &str) -> Option<StopReason> {
    match name {
        "refusal" => None,
        "max_tokens" => Some(StopReason::MaxTokens),
        "stop_sequence" => Some(StopReason::StopText),
        "model_context_window_exceeded" => Some(StopReason::WindowFull),
        _ => Some(StopReason::EndOfText),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Sampling;

    #[test]
    fn a_request_is_what_the_api_takes() {
        let messages = [
            Message { role: "system".to_owned(), content: "Be brief.".to_owned() },
            Message::assistant("an answer without its question"),
            Message::user("Hello"),
            Message::assistant(" \n"),
            Message::user("Again"),
        ];
        let sampling = Sampling { temperature: 1.5, ..Sampling::default() };
        let options = Options { max_tokens: 0, stop: vec!["END".to_owned()], sampling, ..Options::default() };
        let body = Body::new("some-model", &messages, &options).expect("a question");
        let json = serde_json::to_value(&body).expect("JSON");
        let expected = serde_json::json!({
            "model": "some-model", "max_tokens": 1, "stream": true, "system": "Be brief.",
            "messages": [{"role": "user", "content": "Hello"}, {"role": "user", "content": "Again"}],
            "temperature": 1.0, "stop_sequences": ["END"],
        });
        assert_eq!(json, expected);
        let plain = Options::default();
        let json = serde_json::to_value(Body::new("m", &messages[2..3], &plain)).expect("JSON");
        assert_eq!(json.as_object().map(|o| o.len()), Some(4), "nothing that nobody asked for: {json}");
        assert!(Body::new("m", &messages[..2], &plain).is_none(), "nothing to answer");
        assert!(Body::new("m", &[], &plain).is_none());
    }
}
