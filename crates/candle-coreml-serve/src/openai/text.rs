//! `POST /v1/completions`.

use candle_coreml::nonblocking::Prompt;
use serde::Deserialize;
use serde_json::Value;

use super::inputs::{Input, inputs};
use super::options::Common;
use super::reply::ReplyKind;
use super::request::TextRequest;
use crate::error::ApiError;

/// Default token limit of an answer, as in OpenAI's API.
const DEFAULT_TOKENS: usize = 16;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    prompt: Value,
    #[serde(flatten)]
    common: Common,
}

impl TextRequest for Request {
    type Given = Value;
    const KIND: ReplyKind = ReplyKind::Text;

    fn split(self) -> (Self::Given, Common) {
        (self.prompt, self.common)
    }

    fn prompt(given: Self::Given) -> Result<Prompt, ApiError> {
        let mut prompts = inputs(given, "prompt")?;
        match (prompts.pop(), prompts.is_empty()) {
            (Some(Input::Text(text)), true) => Ok(Prompt::Text(text)),
            (Some(Input::Tokens(ids)), true) => Ok(Prompt::Tokens(ids)),
            _ => Err(ApiError::field("prompt", "one prompt for each request is supported")),
        }
    }

    fn default_tokens(_context: usize) -> usize {
        DEFAULT_TOKENS
    }
}
