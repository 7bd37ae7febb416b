//! `POST /v1/completions`.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Json, State};
use axum::response::Response;
use candle_coreml::nonblocking::Prompt;
use serde::Deserialize;
use serde_json::Value;

use super::inputs::{Input, inputs};
use super::options::Common;
use super::reply::{Form, Reply};
use super::stream::Job;
use crate::app::{App, Deadline};
use crate::error::ApiError;

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
    request: Result<Json<Request>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(Request { prompt, common }) = request?;
    let (name, model) = app.models.language(common.model.as_deref())?;
    let mut prompts = inputs(&prompt, "prompt")?;
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
    };
    job.run(model).await
}
