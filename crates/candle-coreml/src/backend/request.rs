//! Shared request handling: prompt truncation, generation, statistics.

use super::{CancelHandle, RequestStats, Stats};
use crate::error::{Error, Result};
use crate::generation::{Decoder, Generation, Message, Options, Step, Summary, Tokenizer};

/// Requests of one generator: its cancel handle and its statistics.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) cancel: CancelHandle,
    pub(super) stats: Stats,
}

/// A prompt and the number of messages dropped to fit it.
pub(super) struct Prompt {
    ids: Vec<u32>,
    dropped: usize,
}

impl Prompt {
    /// A text, with the tokenizer's special tokens added.
    pub(super) fn text(tokenizer: &Tokenizer, text: &str) -> Result<Self> {
        Ok(Self { ids: tokenizer.encode_with_special(text)?, dropped: 0 })
    }

    /// A conversation. Reserves a quarter of the context (less if fewer tokens are requested) for the answer.
    pub(super) fn chat(tokenizer: &Tokenizer, messages: &[Message], options: &Options, context: usize) -> Result<Self> {
        let template = tokenizer.needed_template()?;
        if messages.is_empty() {
            return Err(Error::NoMessages);
        }
        let system = usize::from(messages.len() > 1 && messages[0].role == "system");
        let room = context.saturating_sub(options.max_tokens.min(context / 4));
        let mut dropped = 0;
        loop {
            let kept: Vec<Message> = messages[..system].iter().chain(&messages[system + dropped..]).cloned().collect();
            let ids = tokenizer.encode(&template.render(&kept, options.thinking)?)?;
            let last = system + dropped + 1 >= messages.len();
            if ids.len() <= room || last {
                return Ok(Self { ids, dropped });
            }
            // A conversation starts with the user: drop an answer along with its question.
            let rest = &messages[system + dropped + 1..];
            let next = rest.iter().position(|m| m.role == "user").unwrap_or(rest.len() - 1);
            dropped += 1 + next;
        }
    }
}

impl Requests {
    /// Runs a request to completion.
    pub(super) fn run<'g>(
        &mut self,
        decoder: impl Decoder + 'g,
        tokenizer: &'g Tokenizer,
        prompt: &Prompt,
        options: Options,
        on_token: &mut dyn FnMut(&Step),
    ) -> Result<Summary> {
        let mut generation =
            Generation::with_decoder(decoder, tokenizer, &prompt.ids, options).cancelled_by(self.cancel.flag());
        let mut failure = None;
        loop {
            match generation.advance() {
                Ok(Some(step)) => on_token(&step),
                Ok(None) => break,
                Err(e) => {
                    failure = Some(e);
                    break;
                }
            }
        }
        self.stats.context_used = generation.cached();
        self.cancel.clear();
        if let Some(e) = failure {
            return Err(e);
        }
        let summary = generation.finish();
        self.stats.turns += 1;
        self.stats.generated_tokens += summary.tokens.len();
        self.stats.last = Some(RequestStats {
            prompt_tokens: prompt.ids.len(),
            prefilled_tokens: summary.prefill_tokens,
            prefill_seconds: summary.prefill_seconds,
            generated_tokens: summary.tokens.len(),
            decode_steps: summary.decode_steps + summary.guessed,
            decode_seconds: summary.decode_seconds,
            dropped_messages: prompt.dropped,
            stop_reason: summary.stop_reason,
        });
        Ok(summary)
    }
}
