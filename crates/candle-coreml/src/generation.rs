//! Text generation: from a prompt to pieces of text. A [`Decoder`] runs the tokens: a Core ML [`Pipeline`] or a Candle
//! checkpoint.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use web_time::Instant;

use crate::anemll::{Pipeline, Session};
use crate::error::{Error, Result};
use crate::task;

mod chat;
#[cfg(feature = "constrained")]
mod constraint;
mod conversation;
mod decoder;
mod jinja;
mod lookup;
mod probabilities;
mod processors;
mod progress;
mod recommended;
mod sampler;
mod text;
pub(crate) mod vocabulary;

pub use chat::{ChatTemplate, Message};
#[cfg(feature = "constrained")]
pub use constraint::{Constraint, Grammar, Spacing};
pub use conversation::{Conversation, Ending};
pub use decoder::{Decoder, PipelineDecoder};
pub use jinja::{TemplateError, TemplateErrorKind, TemplateLimits};
pub use probabilities::{Probabilities, TokenProbability};
pub use processors::{Bias, LogitsProcessor, Penalties, Processors, Seen};
pub use progress::Progress;
pub use recommended::Recommended;
pub use sampler::{Sampler, Sampling};
pub use text::{TextStream, Tokenizer};

/// Stopping and sampling options.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum number of tokens to generate.
    pub max_tokens: usize,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// What changes the logits before a token is chosen: penalties, biases, constraints.
    pub processors: Processors,
    /// Log-probabilities of every token, and this many of the most likely ones; `None`: none.
    pub probabilities: Option<usize>,
    /// Log-probabilities of the prompt's tokens too ([`Summary::prompt_probabilities`]), if [`probabilities`](Self::probabilities)
    /// is set. The prompt then runs token by token, and nothing of it is taken from the cache.
    pub prompt_probabilities: bool,
    /// Special tokens that are part of the text, such as those that mark thoughts or calls.
    pub shown: Vec<u32>,
    /// Stop texts; excluded from the result.
    pub stop: Vec<String>,
    /// True to slide the window when the context is full; otherwise generation stops.
    pub slide: bool,
    /// Feed these tokens instead of the sampled ones (teacher forcing).
    pub force: Vec<u32>,
    /// Most tokens that are guessed from what was said before and verified in one step, for greedy sampling; 0 guesses none,
    /// and more than 15 are never guessed. The text is the same.
    pub lookup: usize,
    /// Value of the chat template's `enable_thinking`; `None`: the model's default.
    pub thinking: Option<bool>,
    /// Cancels generation at the next token when set.
    pub cancel: Arc<AtomicBool>,
    /// Progress counters for observers.
    pub progress: Arc<Progress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: Sampling::default(),
            processors: Processors::default(),
            probabilities: None,
            prompt_probabilities: false,
            shown: Vec::new(),
            stop: Vec::new(),
            slide: true,
            force: Vec::new(),
            lookup: 0,
            thinking: None,
            cancel: Arc::default(),
            progress: Arc::default(),
        }
    }
}

impl Options {
    /// Most likely tokens to find for each token of the prompt, if any are asked for.
    fn each_of_prompt(&self) -> Option<usize> {
        self.probabilities.filter(|_| self.prompt_probabilities)
    }
}

/// Reason for the end of generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model generated an end token, or a processor says that the answer is complete.
    EndOfText,
    /// A stop text was generated.
    StopText,
    /// The token limit was reached.
    MaxTokens,
    /// The context is full.
    WindowFull,
    /// Cancelled.
    Cancelled,
}

/// One generated token.
#[derive(Debug, Clone)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// Text completed by this token; may be empty.
    pub text: String,
    /// Logits of the model `[vocab]`, before processors.
    pub logits: Vec<f32>,
    /// Log-probabilities, if [`Options::probabilities`] asks for them.
    pub probabilities: Option<Probabilities>,
}

/// Result of a generation.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Generated tokens, without the end token.
    pub tokens: Vec<u32>,
    /// The generated text.
    pub text: String,
    /// Reason for the end.
    pub stop_reason: StopReason,
    /// Number of tokens in prefill.
    pub prefill_tokens: usize,
    /// Time to the first logits in seconds.
    pub prefill_seconds: f64,
    /// Time of all later forward passes in seconds.
    pub decode_seconds: f64,
    /// Number of later forward passes.
    pub decode_steps: usize,
    /// Log-probabilities of the prompt's tokens from the second on, if [`Options::prompt_probabilities`] asks for them.
    pub prompt_probabilities: Vec<Probabilities>,
    /// Number of tokens that needed none, since a guess was right: see [`Options::lookup`].
    pub guessed: usize,
}

impl Summary {
    /// Prompt tokens per second.
    pub fn prefill_rate(&self) -> f64 {
        self.prefill_tokens as f64 / self.prefill_seconds.max(1e-9)
    }

    /// Generated tokens per second.
    pub fn decode_rate(&self) -> f64 {
        (self.decode_steps + self.guessed) as f64 / self.decode_seconds.max(1e-9)
    }
}

/// A generation in progress: an iterator of [`Step`]s.
pub struct Generation<'g> {
    decoder: Box<dyn Decoder + 'g>,
    cancel: Option<Arc<AtomicBool>>,
    sampler: Sampler,
    options: Options,
    end: Vec<u32>,
    stream: TextStream<'g>,
    prompt: Vec<u32>,
    next: Option<u32>,
    /// Logits after the processors; kept for its memory.
    processed: Vec<f32>,
    /// Logits after guesses that were right: the decoder has their tokens already.
    ahead: VecDeque<Vec<f32>>,
    summary: Summary,
    done: bool,
}

impl<'g> Generation<'g> {
    /// Continues the conversation in `session` with `prompt`.
    ///
    /// `prompt` is the whole conversation: the prefix cached in the session is not recomputed.
    pub fn new(
        pipeline: &'g Pipeline,
        tokenizer: &'g Tokenizer,
        session: &'g mut Session,
        prompt: &[u32],
        options: Options,
    ) -> Self {
        Self::with_decoder(PipelineDecoder { pipeline, session }, tokenizer, prompt, options)
    }

    /// [`new`](Self::new) on any decoder.
    pub fn with_decoder(
        mut decoder: impl Decoder + 'g,
        tokenizer: &'g Tokenizer,
        prompt: &[u32],
        options: Options,
    ) -> Self {
        let known = decoder.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // Always run the last token, even if cached: its logits are needed.
        let known = if options.each_of_prompt().is_some() { 0 } else { known.min(prompt.len().saturating_sub(1)) };
        let known = decoder.truncate(known);
        let sampler = Sampler::new(options.sampling.clone());
        Self {
            decoder: Box::new(decoder),
            cancel: None,
            sampler,
            end: tokenizer.end_tokens().to_vec(),
            stream: TextStream::new(tokenizer, options.stop.clone()).showing(options.shown.clone()),
            options,
            prompt: prompt[known..].to_vec(),
            next: None,
            processed: Vec::new(),
            ahead: VecDeque::new(),
            summary: Summary {
                tokens: Vec::new(),
                text: String::new(),
                stop_reason: StopReason::MaxTokens,
                prefill_tokens: prompt.len() - known,
                prefill_seconds: 0.0,
                decode_seconds: 0.0,
                decode_steps: 0,
                prompt_probabilities: Vec::new(),
                guessed: 0,
            },
            done: false,
        }
    }

    /// Adds a cancellation flag besides the one in the options.
    #[must_use]
    pub fn cancelled_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
    }

    fn cancelled(&self) -> bool {
        let set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        set(&self.options.cancel) || self.cancel.as_ref().is_some_and(set) || task::is_cancelled()
    }

    /// Runs the prompt in parts, to report progress and check for cancellation between them; `None` if cancelled.
    fn prefill(&mut self) -> Result<Option<Vec<f32>>> {
        let Options { sampling, processors, probabilities, .. } = &self.options;
        if self.decoder.greedy_only() && !(sampling.is_greedy() && processors.is_empty() && probabilities.is_none()) {
            return Err(Error::Request(
                "this model gives the best token and no probabilities of others: use temperature 0, no penalties, biases \
                 or constraints, and ask for no log-probabilities"
                    .to_owned(),
            ));
        }
        let prompt = std::mem::take(&mut self.prompt);
        let (total, context) = (self.decoder.tokens().len() + prompt.len(), self.decoder.context());
        // Check now; a decoder would notice only at the last part.
        if total > context {
            return Err(Error::PromptTooLong { tokens: total, context });
        }
        let progress = self.options.progress.clone();
        progress.begin(prompt.len());
        let flags = [Some(self.options.cancel.clone()), self.cancel.clone()];
        let mut more = |done| {
            progress.prefilled(done);
            task::report("prompt", done as u64, prompt.len() as u64);
            !task::is_cancelled() && !flags.iter().flatten().any(|flag| flag.load(Ordering::Relaxed))
        };
        let Some(count) = self.options.each_of_prompt() else {
            return self.decoder.forward_chunked(&prompt, &mut more);
        };
        let mut logits = None;
        for (i, &token) in prompt.iter().enumerate() {
            if let Some(before) = logits.replace(self.decoder.forward(&[token])?) {
                self.summary.prompt_probabilities.push(Probabilities::of(&before, token, count));
            }
            if !more(i + 1) {
                return Ok(None);
            }
        }
        logits.map_or_else(|| self.decoder.forward(&[]).map(Some), |l| Ok(Some(l)))
    }

    /// The token that follows these logits: the processors change a copy, if there are any.
    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        if self.options.processors.is_empty() {
            return Ok(self.sampler.choose(logits, self.decoder.tokens()));
        }
        self.processed.clear();
        self.processed.extend_from_slice(logits);
        let seen = Seen { tokens: self.decoder.tokens(), answer: &self.summary.tokens };
        self.options.processors.process(seen, &mut self.processed)?;
        let token = self.sampler.choose(&self.processed, seen.tokens);
        self.options.processors.chosen(token)?;
        Ok(token)
    }

    /// Runs to the end and calls `on_token` for every piece of text.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn run(mut self, mut on_token: impl FnMut(&Step)) -> Result<Summary> {
        while let Some(step) = self.advance()? {
            on_token(&step);
        }
        Ok(self.finish())
    }

    /// Number of cached tokens.
    pub fn cached(&self) -> usize {
        self.decoder.tokens().len()
    }

    /// Summary so far.
    pub fn finish(mut self) -> Summary {
        self.end()
    }

    /// Ends it here: the summary, with text that was held back in case that a stop text would follow.
    pub fn end(&mut self) -> Summary {
        // Right guesses that were not asked for.
        let extra = self.ahead.len();
        if extra > 0 {
            let held = self.decoder.tokens().len();
            self.decoder.truncate(held.saturating_sub(extra));
            self.ahead.clear();
        }
        if !self.done {
            self.done = true;
            self.summary.stop_reason = StopReason::Cancelled;
        }
        self.summary.text.push_str(&self.stream.rest());
        self.summary.clone()
    }

    /// Runs a token and guesses of those after it in one step; the logits after the token. `None` if there is nothing to
    /// guess, or guesses can't be verified at once.
    fn guess(&mut self, token: u32) -> Result<Option<Vec<f32>>> {
        let Options { lookup, sampling, force, max_tokens, processors, .. } = &self.options;
        // The last token needs no step.
        let most = (*lookup).min(lookup::MOST).min(max_tokens.saturating_sub(self.summary.tokens.len() + 1));
        if most == 0 || !sampling.is_greedy() || !force.is_empty() || !processors.is_empty() {
            return Ok(None);
        }
        let mut known = self.decoder.tokens().to_vec();
        known.push(token);
        let guesses = lookup::guesses(&known, most);
        if guesses.is_empty() {
            return Ok(None);
        }
        let before = known.len();
        let tokens = [&[token], guesses].concat();
        let Some(logits) = self.decoder.forward_guesses(&tokens) else { return Ok(None) };
        let mut all = logits?.into_iter();
        let first = all.next();
        let mut right = 0;
        let mut last = first.clone();
        for (&guess, next) in guesses.iter().zip(all) {
            let chosen = last.as_ref().map(|logits| self.sampler.choose(logits, &[]));
            if chosen != Some(guess) || self.end.contains(&guess) {
                break;
            }
            right += 1;
            last = Some(next.clone());
            self.ahead.push_back(next);
        }
        self.decoder.truncate(before + right);
        Ok(first)
    }

    fn stop(&mut self, reason: StopReason) -> Option<Step> {
        self.summary.stop_reason = reason;
        self.done = true;
        None
    }

    /// The next token, or `None` at the end.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn advance(&mut self) -> Result<Option<Step>> {
        if self.done {
            return Ok(None);
        }
        let forced = self.options.force.len();
        let limit = if forced > 0 { forced + 1 } else { self.options.max_tokens };
        if self.summary.tokens.len() >= limit {
            // The prompt alone may be asked for.
            if limit == 0 && self.options.each_of_prompt().is_some() && self.prefill()?.is_none() {
                return Ok(self.stop(StopReason::Cancelled));
            }
            return Ok(self.stop(StopReason::MaxTokens));
        }
        if self.options.processors.complete() {
            return Ok(self.stop(StopReason::EndOfText));
        }
        if self.cancelled() {
            return Ok(self.stop(StopReason::Cancelled));
        }
        let started = Instant::now();
        let logits = match self.next {
            None => {
                let Some(logits) = self.prefill()? else { return Ok(self.stop(StopReason::Cancelled)) };
                self.summary.prefill_seconds = started.elapsed().as_secs_f64();
                logits
            }
            // A guess was right.
            Some(_) if !self.ahead.is_empty() => {
                self.summary.guessed += 1;
                self.ahead.pop_front().unwrap_or_default()
            }
            Some(token) => {
                let logits = if let Some(logits) = self.guess(token)? {
                    logits
                } else if self.options.slide {
                    self.decoder.forward_with_shift(token)?
                } else if self.decoder.tokens().len() < self.decoder.context() {
                    self.decoder.forward(&[token])?
                } else {
                    return Ok(self.stop(StopReason::WindowFull));
                };
                self.summary.decode_seconds += started.elapsed().as_secs_f64();
                self.summary.decode_steps += 1;
                logits
            }
        };
        let token = match self.options.force.get(self.summary.tokens.len()) {
            Some(&t) => t,
            None => self.choose(&logits)?,
        };
        if forced == 0 && self.end.contains(&token) {
            return Ok(self.stop(StopReason::EndOfText));
        }
        self.next = Some(token);
        self.summary.tokens.push(token);
        self.options.progress.generated(self.summary.tokens.len());
        task::report("answer", self.summary.tokens.len() as u64, self.options.max_tokens as u64);
        let text = self.stream.push(token)?;
        self.summary.text.push_str(&text);
        if self.stream.stopped() && forced == 0 {
            self.summary.stop_reason = StopReason::StopText;
            self.done = true;
        }
        let probabilities = self.options.probabilities.map(|count| Probabilities::of(&logits, token, count));
        Ok(Some(Step { token, text, logits, probabilities }))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.advance();
        self.done |= step.is_err();
        step.transpose()
    }
}
