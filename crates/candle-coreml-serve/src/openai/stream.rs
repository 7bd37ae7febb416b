//! Streamed (server-sent events) and complete answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use candle_coreml::generation::Options;
use candle_coreml::nonblocking::{Answer, AsyncGenerator, Prompt};
use futures_util::stream;
use serde_json::Value;

use super::reply::{Reply, Usage};
use crate::connections::Room;
use crate::error::ApiError;
use crate::state::Deadline;

/// A text request that is ready to run.
pub(super) struct Job {
    pub(super) prompt: Prompt,
    pub(super) options: Options,
    pub(super) reply: Reply,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) deadline: Deadline,
    /// Memory reserved for the prompt text.
    pub(super) room: Option<Arc<Room>>,
}

impl Job {
    /// Runs the job. Errors before the prompt is accepted set the status; later ones are sent as an event.
    pub(super) async fn run(self, model: &AsyncGenerator) -> Result<Response, ApiError> {
        let answer = model.stream(self.prompt, self.options).await?;
        drop(self.room);
        if self.stream {
            let events = Events {
                answer,
                reply: self.reply,
                include_usage: self.include_usage,
                deadline: self.deadline,
                ready: VecDeque::new(),
                over: false,
            };
            return Ok(events.response());
        }
        // Also bounded by the time limit of every request.
        let done = answer.finish().await?;
        let usage =
            Usage { prompt: done.prompt_tokens, cached: done.cached_tokens, completion: done.summary.tokens.len() };
        Ok(axum::Json(self.reply.whole(&done.summary.text, done.summary.stop_reason, usage)).into_response())
    }
}

/// Events of one answer.
struct Events {
    answer: Answer,
    reply: Reply,
    include_usage: bool,
    deadline: Deadline,
    ready: VecDeque<Event>,
    over: bool,
}

impl Events {
    fn response(mut self) -> Response {
        if let Some(first) = self.reply.first_chunk() {
            self.push(first);
        }
        let events = stream::unfold(self, |mut events| async {
            let event = events.next().await?;
            Some((Ok::<_, Infallible>(event), events))
        });
        Sse::new(events).keep_alive(KeepAlive::default()).into_response()
    }

    fn push(&mut self, mut object: Value) {
        if self.include_usage && object.get("usage").is_none() {
            object["usage"] = Value::Null;
        }
        self.ready.push_back(Event::default().data(object.to_string()));
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match tokio::time::timeout_at(self.deadline.at, self.answer.next()).await {
                Ok(Some(Ok(piece))) if piece.text.is_empty() => {}
                Ok(Some(Ok(piece))) => self.push(self.reply.text_chunk(&piece.text)),
                Ok(Some(Err(error))) => self.fail(error.into()),
                Ok(None) => self.end(),
                Err(_) => self.fail(ApiError::timeout(self.deadline.after)),
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        if let Some(summary) = self.answer.summary() {
            let (reason, completion) = (summary.stop_reason, summary.tokens.len());
            self.push(self.reply.last_chunk(reason));
            if self.include_usage {
                let (prompt, cached) = (self.answer.prompt_tokens(), self.answer.cached_tokens());
                self.push(self.reply.usage_chunk(Usage { prompt, cached, completion }));
            }
        }
        self.ready.push_back(Event::default().data("[DONE]"));
    }

    /// No `[DONE]` follows: the answer is incomplete.
    fn fail(&mut self, error: ApiError) {
        self.over = true;
        self.ready.push_back(Event::default().data(error.body().to_string()));
    }
}
