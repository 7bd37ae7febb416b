//! Text requests: from request fields to a [`Job`] on a model.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use candle_coreml::generation::{Constraint, Grammar, Options};
use candle_coreml::nonblocking::{AsyncGenerator, Prompt};

use super::logprobs::Form;
use super::options::Common;
use super::parsed::Parsed;
use super::reply::{Reply, ReplyKind};
use super::split::Splitter;
use super::stream::{Choice, Job};
use crate::connections::Room;
use crate::error::ApiError;
use crate::state::{App, Deadline};

/// Body of a route that generates text.
pub(crate) trait TextRequest: Send + 'static {
    const KIND: ReplyKind;

    /// The fields that all routes share.
    fn common(&self) -> &Common;

    /// Plans the answers. Blocks: templates run, and tokens are looked up.
    fn plan(self, model: &AsyncGenerator) -> Result<Plan, ApiError>;
}

/// A prompt that is part of its answer.
#[derive(Debug, Clone)]
pub(super) struct Echo {
    pub(super) text: String,
    /// Its first token, before which there is none.
    pub(super) first: Option<u32>,
}

/// The answers to a request.
pub(crate) struct Plan {
    /// At least one.
    pub(super) prompts: Vec<Prompt>,
    /// One for each prompt, or none.
    pub(super) echo: Vec<Echo>,
    pub(super) grammar: Option<String>,
    pub(super) splitter: Splitter,
    /// The form of log-probabilities, if they are asked for.
    pub(super) form: Option<Form>,
    pub(super) options: Options,
    /// The first field that asks for more than the best token.
    pub(super) needs: Option<&'static str>,
}

impl Plan {
    /// Refuses what a model can't give that knows nothing but the best token.
    fn check(&self, model: &AsyncGenerator) -> Result<(), ApiError> {
        if !model.greedy_only() {
            return Ok(());
        }
        let unable = |param: &str, what: &str| {
            let message = format!("this model gives the best token and no probabilities of others: {what}");
            Err(ApiError::field(param, message))
        };
        if self.form.is_some() {
            return unable("logprobs", "it has no log-probabilities");
        }
        if self.grammar.is_some() {
            return unable("response_format", "its answers can't be held to a form, nor can tools be required");
        }
        match self.needs {
            Some(param) => unable(param, "it has no effect"),
            None => Ok(()),
        }
    }

    /// The answers, `each` to every prompt.
    pub(super) fn choices(
        self,
        model: &AsyncGenerator,
        each: usize,
        room: Option<&Arc<Room>>,
    ) -> Result<Vec<Choice>, ApiError> {
        self.check(model)?;
        let mut options = self.options;
        if let Some(grammar) = self.grammar {
            options.processors.push(Constraint::new(model.tokenizer(), &Grammar::lark(grammar)?)?);
        }
        let mut choices = Vec::with_capacity(self.prompts.len() * each);
        for (i, prompt) in self.prompts.into_iter().enumerate() {
            for sample in 0..each {
                let mut options = options.clone();
                options.sampling.seed = options.sampling.seed.wrapping_add(sample as u64);
                let (splitter, echo) = (self.splitter.clone(), self.echo.get(i).cloned());
                choices.push(Choice::new(model, prompt.clone(), options, splitter, echo, sample == 0, room.cloned()));
            }
        }
        Ok(choices)
    }
}

/// Answers a text request.
pub(crate) async fn complete<R: TextRequest>(
    State(app): State<Arc<App>>,
    Extension(deadline): Extension<Deadline>,
    Parsed(request, room): Parsed<R>,
) -> Result<Response, ApiError> {
    let (name, model) = app.models.language(request.common().model.as_deref())?;
    let common = request.common();
    let (stream, include_usage) = (common.stream.unwrap_or(false), common.include_usage());
    let (name, form, choices) = {
        let (name, model) = (name.to_owned(), model.clone());
        app.prepare(move || {
            let each = request.common().answers();
            let plan = request.plan(&model)?;
            let form = plan.form;
            Ok((name, form, plan.choices(&model, each, room.as_ref())?))
        })
        .await?
    };
    let job = Job { choices, form, reply: Reply::new(R::KIND, &name), stream, include_usage, deadline };
    job.run(model, app.slots).await
}
