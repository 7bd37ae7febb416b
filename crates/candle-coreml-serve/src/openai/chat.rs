//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use candle_coreml::generation::Message;
use candle_coreml::nonblocking::{AsyncGenerator, Prompt};
use serde::Deserialize;
use serde_json::Value;

use super::inputs::content;
use super::options::Common;
use super::parsed::Parsed;
use super::reply::{Form, Reply};
use super::stream::Job;
use crate::app::{App, Deadline};
use crate::connections::Room;
use crate::error::ApiError;
use crate::models::Models;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    messages: Vec<Given>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Deserialize)]
struct Given {
    role: String,
    #[serde(default)]
    content: Value,
    tool_calls: Option<Value>,
}

fn message(index: usize, given: Given) -> Result<Message, ApiError> {
    let param = |field: &str| format!("messages[{index}].{field}");
    // What was once `system` OpenAI calls `developer`; models know the old name.
    let role = match given.role.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        other => {
            let message = format!("`{other}` is not supported; there are system, developer, user, assistant");
            return Err(ApiError::field(param("role"), message));
        }
    };
    if given.tool_calls.as_ref().is_some_and(|v| v.as_array().is_none_or(|a| !a.is_empty()) && !v.is_null()) {
        return Err(ApiError::field(param("tool_calls"), "tools are not supported"));
    }
    let content = content(given.content, &param("content"), role == "assistant")?;
    Ok(Message { role: role.to_owned(), content })
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
    let Request { messages, common } = request;
    let (name, model) = models.language(common.model.as_deref())?;
    let messages = messages.into_iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<Vec<_>, _>>()?;
    let job = Job {
        prompt: Prompt::Chat(messages),
        options: common.options(model.info().context)?,
        reply: Reply::new(Form::Chat, name),
        stream: common.stream.unwrap_or(false),
        include_usage: common.include_usage(),
        deadline,
        room,
    };
    Ok((job, model))
}
