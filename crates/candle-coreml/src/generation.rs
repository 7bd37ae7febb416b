//! Text generation: prompt in, pieces of text out. What runs the tokens is a [`Decoder`]: a Core ML
//! [`Pipeline`] or a checkpoint on Candle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::anemll::{Pipeline, Session};
use crate::error::{Error, Result};

mod chat;
mod decoder;
mod jinja;
mod progress;
mod sampler;
mod text;
pub(crate) mod vocabulary;

pub use chat::{ChatTemplate, Message};
pub use decoder::{Decoder, PipelineDecoder};
pub use jinja::{TemplateError, TemplateErrorKind, TemplateLimits};
pub use progress::Progress;
pub use sampler::{Sampler, Sampling};
pub use text::{TextStream, Tokenizer};

/// When generation ends, and how tokens are chosen.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end generation; they are not part of the result.
    pub stop: Vec<String>,
    /// Whether the window slides when it is full; otherwise generation ends there.
    pub slide: bool,
    /// Feed these tokens instead of the chosen ones (teacher forcing).
    pub force: Vec<u32>,
    /// Sets the chat template's `enable_thinking`; none leaves it to the model.
    pub thinking: Option<bool>,
    /// Ends generation at the next token when set.
    pub cancel: Arc<AtomicBool>,
    /// How far generation is, for those who watch it.
    pub progress: Arc<Progress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: Sampling::default(),
            stop: Vec::new(),
            slide: true,
            force: Vec::new(),
            thinking: None,
            cancel: Arc::default(),
            progress: Arc::default(),
        }
    }
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model said that it is done.
    EndOfText,
    /// A stop text.
    StopText,
    /// The limit on tokens.
    MaxTokens,
    /// The window is full.
    WindowFull,
    /// Somebody set the flag.
    Cancelled,
}

/// One generated token.
#[derive(Debug, Clone)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// Text that is complete with it; may be empty.
    pub text: String,
    /// Logits that it was chosen from.
    pub logits: Vec<f32>,
}

/// What a generation did.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Generated tokens, without the one that ended generation.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Tokens that prefill took.
    pub prefill_tokens: usize,
    /// Seconds until the first logits.
    pub prefill_seconds: f64,
    /// Seconds for all later ones.
    pub decode_seconds: f64,
    /// Forward passes for the later ones.
    pub decode_steps: usize,
}

impl Summary {
    /// Prompt tokens per second.
    pub fn prefill_rate(&self) -> f64 {
        self.prefill_tokens as f64 / self.prefill_seconds.max(1e-9)
    }

    /// Generated tokens per second.
    pub fn decode_rate(&self) -> f64 {
        self.decode_steps as f64 / self.decode_seconds.max(1e-9)
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
    summary: Summary,
    done: bool,
}

impl<'g> Generation<'g> {
    /// Continues the conversation in `session` with `prompt`.
    ///
    /// `prompt` is the whole conversation: what the session holds of it already is not run again.
    pub fn new(
        pipeline: &'g Pipeline,
        tokenizer: &'g Tokenizer,
        session: &'g mut Session,
        prompt: &[u32],
        options: Options,
    ) -> Self {
        Self::with_decoder(PipelineDecoder { pipeline, session }, tokenizer, prompt, options)
    }

    /// The same on any decoder.
    pub fn with_decoder(
        mut decoder: impl Decoder + 'g,
        tokenizer: &'g Tokenizer,
        prompt: &[u32],
        options: Options,
    ) -> Self {
        let known = decoder.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token must run, even if it is known: its logits are wanted.
        let known = decoder.truncate(known.min(prompt.len().saturating_sub(1)));
        let sampler = Sampler::new(options.sampling.clone());
        Self {
            decoder: Box::new(decoder),
            cancel: None,
            sampler,
            end: tokenizer.end_tokens().to_vec(),
            stream: TextStream::new(tokenizer, options.stop.clone()),
            options,
            prompt: prompt[known..].to_vec(),
            next: None,
            summary: Summary {
                tokens: Vec::new(),
                text: String::new(),
                stop_reason: StopReason::MaxTokens,
                prefill_tokens: prompt.len() - known,
                prefill_seconds: 0.0,
                decode_seconds: 0.0,
                decode_steps: 0,
            },
            done: false,
        }
    }

    /// Ends generation also when this flag is set, beside the one of the options.
    #[must_use]
    pub fn cancelled_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
    }

    fn cancelled(&self) -> bool {
        let set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        set(&self.options.cancel) || self.cancel.as_ref().is_some_and(set)
    }

    /// Runs the prompt in parts, so that it can be watched and cancelled between them; none when it was.
    fn prefill(&mut self) -> Result<Option<Vec<f32>>> {
        if self.decoder.greedy_only() && !self.options.sampling.is_greedy() {
            return Err(Error::Request(
                "this model gives the best token and no probabilities of others: use temperature 0 and no repetition \
                 penalty"
                    .to_owned(),
            ));
        }
        let prompt = std::mem::take(&mut self.prompt);
        let (total, context) = (self.decoder.tokens().len() + prompt.len(), self.decoder.context());
        // Said before any part runs; a decoder would only notice at the last one.
        if total > context {
            return Err(Error::PromptTooLong { tokens: total, context });
        }
        let progress = self.options.progress.clone();
        progress.begin(prompt.len());
        let flags = [Some(self.options.cancel.clone()), self.cancel.clone()];
        self.decoder.forward_chunked(&prompt, &mut |done| {
            progress.prefilled(done);
            !flags.iter().flatten().any(|flag| flag.load(Ordering::Relaxed))
        })
    }

    /// Runs to the end and calls `on_token` with every piece of text.
    ///
    /// # Errors
    /// What the pipeline reports.
    pub fn run(mut self, mut on_token: impl FnMut(&Step)) -> Result<Summary> {
        while let Some(step) = self.advance()? {
            on_token(&step);
        }
        Ok(self.finish())
    }

    /// Tokens in the cache.
    pub fn cached(&self) -> usize {
        self.decoder.tokens().len()
    }

    /// What was done until now.
    pub fn finish(mut self) -> Summary {
        self.summary.text.push_str(&self.stream.rest());
        self.summary
    }

    fn stop(&mut self, reason: StopReason) -> Option<Step> {
        self.summary.stop_reason = reason;
        self.done = true;
        None
    }

    /// The next token, or none at the end.
    ///
    /// # Errors
    /// What the pipeline reports.
    pub fn advance(&mut self) -> Result<Option<Step>> {
        if self.done {
            return Ok(None);
        }
        let forced = self.options.force.len();
        let limit = if forced > 0 { forced + 1 } else { self.options.max_tokens };
        if self.summary.tokens.len() >= limit {
            return Ok(self.stop(StopReason::MaxTokens));
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
            Some(token) => {
                let logits = if self.options.slide {
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
            None => self.sampler.choose(&logits, self.decoder.tokens()),
        };
        if forced == 0 && self.end.contains(&token) {
            return Ok(self.stop(StopReason::EndOfText));
        }
        self.next = Some(token);
        self.summary.tokens.push(token);
        self.options.progress.generated(self.summary.tokens.len());
        let text = self.stream.push(token)?;
        self.summary.text.push_str(&text);
        if self.stream.stopped() && forced == 0 {
            self.summary.stop_reason = StopReason::StopText;
            self.done = true;
        }
        Ok(Some(Step { token, text, logits }))
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
