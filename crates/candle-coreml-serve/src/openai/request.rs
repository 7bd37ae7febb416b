//! Requests for text: from their fields to a [`Job`] on a model.

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

/// Body of a route that answers with text.
pub(crate) trait TextRequest {
    /// The prompt as it is given.
    type Given;
    const KIND: ReplyKind;

    /// The prompt and the fields that all these routes have.
    fn split(self) -> (Self::Given, Common);

    /// The prompt as models take it.
    fn prompt(given: Self::Given) -> Result<Prompt, ApiError>;

    /// Tokens of an answer when the request sets no limit.
    fn default_tokens(context: usize) -> usize;
}

/// Answers a request for text.
pub(crate) async fn complete<R: TextRequest>(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    Parsed(request, room): Parsed<R>,
) -> Result<Response, ApiError> {
    let (job, model) = prepare(&app.models, request, deadline, room)?;
    job.run(model).await
}

/// The job and its model. Nothing else of the request stays in memory while that waits for its turn.
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
        options: common.options(R::default_tokens(model.info().context))?,
        reply: Reply::new(R::KIND, name),
        stream: common.stream.unwrap_or(false),
        include_usage: common.include_usage(),
        deadline,
        room,
    };
    Ok((job, model))
}
