//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Json, State};
use axum::response::Response;
use candle_coreml::generation::Message;
use candle_coreml::nonblocking::Prompt;
use serde::Deserialize;
use serde_json::Value;

use super::inputs::content;
use super::options::Common;
use super::reply::{Form, Reply};
use super::stream::Job;
use crate::app::{App, Deadline};
use crate::error::ApiError;

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

fn message(index: usize, given: &Given) -> Result<Message, ApiError> {
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
    let content = content(&given.content, &param("content"), role == "assistant")?;
    Ok(Message { role: role.to_owned(), content })
}

pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    request: Result<Json<Request>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(Request { messages, common }) = request?;
    let (name, model) = app.models.language(common.model.as_deref())?;
    let messages = messages.iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<Vec<_>, _>>()?;
    let job = Job {
        prompt: Prompt::Chat(messages),
        options: common.options(model.info().context)?,
        reply: Reply::new(Form::Chat, name),
        stream: common.stream.unwrap_or(false),
        include_usage: common.include_usage(),
        deadline,
    };
    job.run(model).await
}
