//! Text requests: from request fields to a [`Job`] on a model.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use candle_coreml::nonblocking::{AsyncGenerator, Prompt};

use super::options::Common;
use super::parsed::Parsed;
use super::reply::{Reply, ReplyKind};
use super::stream::Job;
use crate::connections::Room;
use crate::error::ApiError;
use crate::models::Models;
use crate::state::{App, Deadline};

/// Body of a route that generates text.
pub(crate) trait TextRequest {
    /// The prompt as given in the request.
    type Given;
    const KIND: ReplyKind;

    /// Splits the body into the prompt and the common fields.
    fn split(self) -> (Self::Given, Common);

    /// Converts the prompt for the model.
    fn prompt(given: Self::Given) -> Result<Prompt, ApiError>;

    /// Default token limit of an answer.
    fn default_tokens(context: usize) -> usize;
}

/// Answers a text request.
pub(crate) async fn complete<R: TextRequest>(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    Parsed(request, room): Parsed<R>,
) -> Result<Response, ApiError> {
    let (job, model) = prepare(&app.models, request, deadline, room)?;
    job.run(model).await
}

/// Creates the job and finds its model. Nothing else of the request stays in memory while the job is queued.
fn prepare<R: TextRequest>(
    models: &Models,
    request: R,
    deadline: Deadline,
    room: Option<Arc<Room>>,
) -> Result<(Job, &AsyncGenerator), ApiError> {
    let (given, common) = request.split();
    let (name, model) = models.language(common.model.as_deref())?;
    let job = Job {
        prompt: R::prompt(given)?,
        options: common.options(R::default_tokens(model.info().context), model.recommended())?,
        reply: Reply::new(R::KIND, name),
        stream: common.stream.unwrap_or(false),
        include_usage: common.include_usage(),
        deadline,
        room,
    };
    Ok((job, model))
}
