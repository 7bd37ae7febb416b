//! `POST /v1/completions`.

use candle_coreml::nonblocking::{AsyncGenerator, Prompt};
use serde::Deserialize;
use serde_json::Value;

use super::inputs::{Input, inputs};
use super::logprobs::Form;
use super::options::Common;
use super::reply::ReplyKind;
use super::request::{Echo, Plan, TextRequest};
use super::split::Splitter;
use super::tools::response_rules;
use crate::error::ApiError;

/// Default token limit of an answer, as in OpenAI's API.
const DEFAULT_TOKENS: usize = 16;

/// Most likely tokens that are told, as in OpenAI's API.
const TOP: u64 = 5;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    prompt: Value,
    echo: Option<bool>,
    logprobs: Option<u64>,
    #[serde(flatten)]
    common: Common,
}

impl TextRequest for Request {
    const KIND: ReplyKind = ReplyKind::Text;

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(self, model: &AsyncGenerator) -> Result<Plan, ApiError> {
        let tokenizer = model.tokenizer();
        let echo = self.echo.unwrap_or(false);
        let mut options = self.common.options(DEFAULT_TOKENS, echo, model.vocab(), model.recommended())?;
        if self.logprobs.is_some_and(|n| n > TOP) {
            return Err(ApiError::field("logprobs", format!("expected 0 to {TOP}")));
        }
        options.probabilities = self.logprobs.map(|n| n as usize);
        options.prompt_probabilities = echo && self.logprobs.is_some();
        if options.prompt_probabilities && self.common.stream == Some(true) {
            return Err(ApiError::field("echo", "with `logprobs` it can't be streamed"));
        }
        let (mut prompts, mut echoes) = (Vec::new(), Vec::new());
        for input in inputs(self.prompt, "prompt")? {
            if echo {
                let (text, tokens) = match &input {
                    Input::Text(text) => (text.clone(), tokenizer.encode_with_special(text)?),
                    Input::Tokens(ids) => (tokenizer.decode(ids)?, ids.clone()),
                };
                echoes.push(Echo { text, first: tokens.first().copied() });
            }
            prompts.push(match input {
                Input::Text(text) => Prompt::Text(text),
                Input::Tokens(ids) => Prompt::Tokens(ids),
            });
        }
        let rules = response_rules(self.common.response_format.as_ref())?;
        Ok(Plan {
            prompts,
            echo: echoes,
            grammar: rules.map(|rules| format!("start: answer\n{rules}")),
            splitter: Splitter::plain(),
            form: self.logprobs.map(|_| Form::Text),
            needs: self.common.needs_probabilities(),
            options,
        })
    }
}
