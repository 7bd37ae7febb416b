//! `POST /v1/completions`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use candle_coreml::nonblocking::{AsyncGenerator, Prompt};
use serde::Deserialize;
use serde_json::Value;

use super::inputs::{Input, inputs};
use super::options::Common;
use super::parsed::Parsed;
use super::reply::{Form, Reply};
use super::stream::Job;
use crate::app::{App, Deadline};
use crate::connections::Room;
use crate::error::ApiError;
use crate::models::Models;

/// Tokens of an answer when the request does not say, as OpenAI has it.
const USUAL: usize = 16;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    prompt: Value,
    #[serde(flatten)]
    common: Common,
}

pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    Parsed(request, room): Parsed<Request>,
) -> Result<Response, ApiError> {
    let (job, model) = prepare(&app.models, request, deadline, room)?;
    job.run(model).await
}

/// What to run, and on which model. Nothing else of the request stays in memory while that waits for its turn.
fn prepare(
    models: &Models,
    request: Request,
    deadline: Deadline,
    room: Option<Arc<Room>>,
) -> Result<(Job, &AsyncGenerator), ApiError> {
    let Request { prompt, common } = request;
    let (name, model) = models.language(common.model.as_deref())?;
    let mut prompts = inputs(prompt, "prompt")?;
    let prompt = match (prompts.pop(), prompts.is_empty()) {
        (Some(Input::Text(text)), true) => Prompt::Text(text),
        (Some(Input::Tokens(ids)), true) => Prompt::Tokens(ids),
        _ => return Err(ApiError::field("prompt", "one prompt for each request is supported")),
    };
    let job = Job {
        prompt,
        options: common.options(USUAL)?,
        reply: Reply::new(Form::Text, name),
        stream: common.stream.unwrap_or(false),
        include_usage: common.include_usage(),
        deadline,
        room,
    };
    Ok((job, model))
}
