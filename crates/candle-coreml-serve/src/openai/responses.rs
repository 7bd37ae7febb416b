//! `POST /v1/responses`: the same answers as chats, in the newer form. Nothing is stored.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use candle_coreml::nonblocking::AsyncGenerator;
use futures_util::stream;
use serde_json::{Value, json};

use super::logprobs;
use super::parsed::Parsed;
use super::request::TextRequest;
use super::stream::{Choice, Spoken};
use crate::error::ApiError;
use crate::state::{App, Deadline};

mod asked;
mod output;

use asked::Request;
use output::Output;

pub(crate) async fn respond(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    Parsed(request, room): Parsed<Request>,
) -> Result<Response, ApiError> {
    let (name, model) = app.models.language(request.model.as_deref())?;
    let (stream, echo) = (request.stream.unwrap_or(false), request.echo());
    let (name, model) = (name.to_owned(), model.clone());
    let (mut choice, logprobs) = {
        let model = model.clone();
        app.prepare(move || {
            let plan = request.as_chat()?.plan(&model)?;
            let logprobs = plan.form.is_some();
            // One prompt, one answer.
            let choice = plan.choices(&model, 1, room.as_ref())?.pop();
            choice.map(|choice| (choice, logprobs)).ok_or_else(ApiError::panicked)
        })
        .await?
    };
    choice.start(true).await?;
    let output = Output::new(&name, echo);
    let mut events = Events { choice, model, logprobs, output, deadline, ready: VecDeque::new(), over: false };
    if stream {
        return Ok(events.response());
    }
    while let Some(spoken) = events.choice.next().await {
        events.spoken(spoken?);
    }
    Ok(axum::Json(events.output.object()).into_response())
}

/// Events of one response.
struct Events {
    choice: Choice,
    model: AsyncGenerator,
    logprobs: bool,
    output: Output,
    deadline: Deadline,
    ready: VecDeque<Value>,
    over: bool,
}

impl Events {
    fn response(mut self) -> Response {
        self.ready.extend(self.output.begin());
        let events = stream::unfold(self, |mut events| async {
            let event = events.next().await?;
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            Some((Ok::<_, Infallible>(Event::default().event(kind).data(event.to_string())), events))
        });
        Sse::new(events).keep_alive(KeepAlive::default()).into_response()
    }

    fn spoken(&mut self, spoken: Spoken) {
        match spoken {
            Spoken::Part(part, since) => {
                let entries =
                    if self.logprobs { logprobs::entries(self.model.tokenizer(), &since) } else { Vec::new() };
                self.ready.extend(self.output.push(part, entries));
            }
            Spoken::End(end) => self.ready.extend(self.output.end(end.reason, end.usage)),
        }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match tokio::time::timeout_at(self.deadline.at, self.choice.next()).await {
                Ok(Some(Ok(spoken))) => self.spoken(spoken),
                Ok(Some(Err(error))) => self.fail(&error),
                Ok(None) => self.over = true,
                Err(_) => self.fail(&ApiError::timeout(self.deadline.after)),
            }
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.over = true;
        let event = json!({
            "type": "error", "code": error.code, "message": error.message, "param": error.param,
            "sequence_number": self.output.number(),
        });
        self.ready.push_back(event);
    }
}
