//! Streamed (server-sent events) and complete answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use candle_coreml::generation::{Options, Probabilities};
use candle_coreml::nonblocking::{Answer, AsyncGenerator, Prompt};
use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;

use super::logprobs::{self, Form};
use super::reply::{Reply, Said, Usage, finish_reason};
use super::request::Echo;
use super::split::{Part, Splitter};
use crate::connections::Room;
use crate::error::ApiError;
use crate::state::Deadline;

/// What one answer says next.
pub(super) enum Spoken {
    /// A part of it, and the log-probabilities of the tokens since the part before.
    Part(Part, Vec<Probabilities>),
    End(End),
}

/// The end of an answer.
pub(super) struct End {
    pub(super) reason: &'static str,
    pub(super) usage: Usage,
    /// Log-probabilities of the tokens since the last part.
    rest: Vec<Probabilities>,
    /// Log-probabilities of the prompt's tokens.
    prompt: Vec<Probabilities>,
}

/// One answer to one prompt.
pub(super) struct Choice {
    model: AsyncGenerator,
    todo: Option<(Prompt, Options)>,
    answer: Option<Answer>,
    splitter: Splitter,
    echo: Option<Echo>,
    /// Whether its prompt counts; that of further answers is the same.
    counts: bool,
    /// Memory reserved for the prompts until they are tokenized.
    room: Option<Arc<Room>>,
    since: Vec<Probabilities>,
    ready: VecDeque<Spoken>,
    over: bool,
    /// Tokens of thoughts.
    thought: usize,
}

impl Choice {
    pub(super) fn new(
        model: &AsyncGenerator,
        prompt: Prompt,
        options: Options,
        splitter: Splitter,
        echo: Option<Echo>,
        counts: bool,
        room: Option<Arc<Room>>,
    ) -> Self {
        Self {
            model: model.clone(),
            todo: Some((prompt, options)),
            answer: None,
            splitter,
            echo,
            counts,
            room,
            since: Vec::new(),
            ready: VecDeque::new(),
            over: false,
            thought: 0,
        }
    }

    /// Starts the answer. The first of a request is refused if too many wait, others wait.
    pub(super) async fn start(&mut self, first: bool) -> Result<(), ApiError> {
        let Some((prompt, options)) = self.todo.take() else { return Ok(()) };
        let answer = match first {
            true => self.model.stream(prompt, options).await,
            false => self.model.stream_another(prompt, options).await,
        };
        self.room = None;
        self.answer = Some(answer?);
        if let Some(echo) = self.echo.as_ref().filter(|e| !e.text.is_empty()) {
            self.ready.push_back(Spoken::Part(Part::Content(echo.text.clone()), Vec::new()));
        }
        Ok(())
    }

    fn say(&mut self, parts: Vec<Part>) {
        for part in parts {
            let since = std::mem::take(&mut self.since);
            self.ready.push_back(Spoken::Part(part, since));
        }
    }

    /// The next part; `None` behind the end.
    pub(super) async fn next(&mut self) -> Option<Result<Spoken, ApiError>> {
        loop {
            if let Some(spoken) = self.ready.pop_front() {
                return Some(Ok(spoken));
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.start(false).await {
                self.over = true;
                return Some(Err(error));
            }
            let answer = self.answer.as_mut()?;
            match answer.next().await {
                Some(Ok(piece)) => {
                    self.since.extend(piece.probabilities);
                    let parts = self.splitter.push(&piece.text);
                    self.thought += usize::from(piece.token.is_some() && self.splitter.thinks());
                    self.say(parts);
                }
                Some(Err(error)) => {
                    self.over = true;
                    return Some(Err(error.into()));
                }
                None => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        let parts = self.splitter.end();
        self.say(parts);
        let Some(answer) = &self.answer else { return };
        let Some(summary) = answer.summary() else { return };
        let (prompt, cached) = (answer.prompt_tokens(), answer.cached_tokens());
        let completion = summary.tokens.len();
        let spent = Usage { completion, thought: self.thought, ..Usage::default() };
        let usage = if self.counts { Usage { prompt, cached, ..spent } } else { spent };
        self.ready.push_back(Spoken::End(End {
            reason: finish_reason(summary.stop_reason, self.splitter.called()),
            usage,
            rest: std::mem::take(&mut self.since),
            prompt: summary.prompt_probabilities.clone(),
        }));
    }

    fn into_stream(self) -> impl Stream<Item = Result<Spoken, ApiError>> {
        stream::unfold(self, |mut choice| async {
            let next = choice.next().await?;
            Some((next, choice))
        })
    }
}

/// A text request that is ready to run.
pub(super) struct Job {
    pub(super) choices: Vec<Choice>,
    pub(super) form: Option<Form>,
    pub(super) reply: Reply,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) deadline: Deadline,
}

/// What any of the answers says next, with its index.
type Merged = Pin<Box<dyn Stream<Item = (usize, Result<Spoken, ApiError>)> + Send>>;

impl Job {
    /// Runs the job, `together` answers at once. Errors before the first prompt is accepted set the status; later ones are
    /// sent as an event.
    pub(super) async fn run(mut self, model: &AsyncGenerator, together: usize) -> Result<Response, ApiError> {
        if let Some(first) = self.choices.first_mut() {
            first.start(true).await?;
        }
        let count = self.choices.len();
        let firsts: Vec<(Option<u32>, usize)> = self
            .choices
            .iter()
            .map(|c| c.echo.as_ref().map_or((None, 0), |e| (e.first, e.text.chars().count())))
            .collect();
        let named = self.choices.into_iter().enumerate().map(|(i, c)| Box::pin(c.into_stream().map(move |s| (i, s))));
        let merged: Merged = Box::pin(stream::iter(named).flatten_unordered(together.max(1)));
        if self.stream {
            let events = Events {
                merged,
                model: model.clone(),
                form: self.form,
                reply: self.reply,
                include_usage: self.include_usage,
                deadline: self.deadline,
                usage: Usage::default(),
                // Log-probabilities begin behind the prompt.
                offsets: firsts.iter().map(|f| f.1).collect(),
                called: vec![0; count],
                open: count,
                ready: VecDeque::new(),
                over: false,
            };
            return Ok(events.response(count));
        }
        // Also bounded by the time limit of every request.
        let mut merged = merged;
        let mut answers: Vec<Said> = (0..count).map(|_| Said::default()).collect();
        let mut tokens: Vec<Vec<Probabilities>> = vec![Vec::new(); count];
        let mut usage = Usage::default();
        while let Some((index, spoken)) = merged.next().await {
            match spoken? {
                Spoken::Part(part, since) => {
                    tokens[index].extend(since);
                    answers[index].push(part);
                }
                Spoken::End(end) => {
                    tokens[index].extend(end.rest);
                    tokens[index].splice(0..0, end.prompt);
                    answers[index].reason = end.reason;
                    usage.add(end.usage);
                }
            }
        }
        if let Some(form) = self.form {
            for ((said, tokens), (first, _)) in answers.iter_mut().zip(&tokens).zip(firsts) {
                said.logprobs = logprobs::object(form, model.tokenizer(), first, tokens, &mut 0);
            }
        }
        Ok(axum::Json(self.reply.whole(&answers, usage)).into_response())
    }
}

/// Events of the answers to a request.
struct Events {
    merged: Merged,
    model: AsyncGenerator,
    form: Option<Form>,
    reply: Reply,
    include_usage: bool,
    deadline: Deadline,
    usage: Usage,
    /// Characters of each answer before the next token.
    offsets: Vec<usize>,
    /// Calls of each answer.
    called: Vec<usize>,
    /// Answers that have not ended.
    open: usize,
    ready: VecDeque<Event>,
    over: bool,
}

impl Events {
    fn response(mut self, count: usize) -> Response {
        for index in 0..count {
            if let Some(first) = self.reply.first_chunk(index) {
                self.push(first);
            }
        }
        let events = stream::unfold(self, |mut events| async {
            let event = events.next().await?;
            Some((Ok::<_, Infallible>(event), events))
        });
        Sse::new(events).keep_alive(KeepAlive::default()).into_response()
    }

    fn push(&mut self, mut object: Value) {
        if self.include_usage && object.get("usage").is_none() {
            object["usage"] = Value::Null;
        }
        self.ready.push_back(Event::default().data(object.to_string()));
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match tokio::time::timeout_at(self.deadline.at, self.merged.next()).await {
                Ok(Some((index, Ok(spoken)))) => self.spoken(index, spoken),
                Ok(Some((_, Err(error)))) => self.fail(error),
                Ok(None) => self.end(),
                Err(_) => self.fail(ApiError::timeout(self.deadline.after)),
            }
        }
    }

    fn logprobs(&mut self, index: usize, tokens: &[Probabilities]) -> Value {
        match self.form.filter(|_| !tokens.is_empty()) {
            Some(form) => logprobs::object(form, self.model.tokenizer(), None, tokens, &mut self.offsets[index]),
            None => Value::Null,
        }
    }

    fn spoken(&mut self, index: usize, spoken: Spoken) {
        match spoken {
            Spoken::Part(part, since) => {
                let logprobs = self.logprobs(index, &since);
                self.push(self.reply.part_chunk(index, &part, self.called[index], logprobs));
                self.called[index] += usize::from(matches!(part, Part::Call(_)));
            }
            Spoken::End(end) => {
                let logprobs = self.logprobs(index, &end.rest);
                self.push(self.reply.last_chunk(index, end.reason, logprobs));
                self.usage.add(end.usage);
                self.open -= 1;
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        if self.include_usage && self.open == 0 {
            self.push(self.reply.usage_chunk(self.usage));
        }
        self.ready.push_back(Event::default().data("[DONE]"));
    }

    /// No `[DONE]` follows: the answer is incomplete.
    fn fail(&mut self, error: ApiError) {
        self.over = true;
        self.ready.push_back(Event::default().data(error.body().to_string()));
    }
}
