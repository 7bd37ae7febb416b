//! `POST /v1/chat/completions`.

use candle_coreml::generation::Message;
use candle_coreml::nonblocking::Prompt;
use serde::Deserialize;
use serde_json::Value;

use super::inputs::content;
use super::options::Common;
use super::reply::ReplyKind;
use super::request::TextRequest;
use crate::error::ApiError;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    messages: Vec<Given>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Given {
    role: String,
    #[serde(default)]
    content: Value,
    tool_calls: Option<Value>,
}

fn message(index: usize, given: Given) -> Result<Message, ApiError> {
    let param = |field: &str| format!("messages[{index}].{field}");
    // OpenAI renamed `system` to `developer`; models know the old name.
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

impl TextRequest for Request {
    type Given = Vec<Given>;
    const KIND: ReplyKind = ReplyKind::Chat;

    fn split(self) -> (Self::Given, Common) {
        (self.messages, self.common)
    }

    fn prompt(given: Self::Given) -> Result<Prompt, ApiError> {
        let messages = given.into_iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<_, _>>()?;
        Ok(Prompt::Chat(messages))
    }

    fn default_tokens(context: usize) -> usize {
        context
    }
}
