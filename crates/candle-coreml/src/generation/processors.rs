//! What changes logits between the model and the choice of a token: penalties, biases, constraints, a program's own rules.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// What an answer has said when its next token is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Tokens in the cache: of the prompt and of the answer, without those that a sliding window has dropped.
    pub tokens: &'a [u32],
    /// Tokens of the answer.
    pub answer: &'a [u32],
}

/// Changes the logits of an answer before each token is chosen. A processor belongs to one answer.
///
/// Forced tokens ([`Options::force`](super::Options::force)) pass none. Logits of −∞ are never chosen, so a processor that
/// leaves one token finite is a sampler.
pub trait LogitsProcessor: Send + Sync {
    /// A processor for another answer, before its first token.
    fn fresh(&self) -> Box<dyn LogitsProcessor>;

    /// Changes `logits` `[vocab]`, those of the model or of the processor before this one.
    ///
    /// # Errors
    /// Errors end the answer.
    fn process(&mut self, seen: Seen<'_>, logits: &mut [f32]) -> Result<()>;

    /// Takes note of the chosen token.
    ///
    /// # Errors
    /// Errors end the answer.
    fn chosen(&mut self, _token: u32) -> Result<()> {
        Ok(())
    }

    /// Whether the answer is complete and ends here, as with an end token.
    fn complete(&self) -> bool {
        false
    }
}

/// Processors of an answer, in the order in which they run. A clone is for another answer.
#[derive(Default)]
pub struct Processors(Vec<Box<dyn LogitsProcessor>>);

impl std::fmt::Debug for Processors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Processors({})", self.0.len())
    }
}

impl Clone for Processors {
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|p| p.fresh()).collect())
    }
}

impl Processors {
    /// Adds one behind the others.
    pub fn push(&mut self, processor: impl LogitsProcessor + 'static) {
        self.0.push(Box::new(processor));
    }

    /// [`push`](Self::push) of a function that needs no memory.
    pub fn push_fn(&mut self, process: impl Fn(Seen<'_>, &mut [f32]) + Clone + Send + Sync + 'static) {
        self.push(Function(process));
    }

    /// Number of processors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether logits stay as they are.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn process(&mut self, seen: Seen<'_>, logits: &mut [f32]) -> Result<()> {
        for processor in &mut self.0 {
            processor.process(seen, logits)?;
        }
        // Without this a sampler would take the first token, which has been ruled out.
        if logits.iter().all(|l| l.is_nan() || *l == f32::NEG_INFINITY) {
            return Err(Error::Request(
                "no token of the model can follow: its constraints and biases rule out all of them".to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn chosen(&mut self, token: u32) -> Result<()> {
        self.0.iter_mut().try_for_each(|p| p.chosen(token))
    }

    pub(super) fn complete(&self) -> bool {
        self.0.iter().any(|p| p.complete())
    }
}

#[derive(Clone)]
struct Function<F>(F);

impl<F: Fn(Seen<'_>, &mut [f32]) + Clone + Send + Sync + 'static> LogitsProcessor for Function<F> {
    fn fresh(&self) -> Box<dyn LogitsProcessor> {
        Box::new(self.clone())
    }

    fn process(&mut self, seen: Seen<'_>, logits: &mut [f32]) -> Result<()> {
        (self.0)(seen, logits);
        Ok(())
    }
}

/// Presence and frequency penalties over the tokens of the answer.
///
/// l(t) ← l(t) − c(t) · frequency − \[c(t) > 0\] · presence, where c(t) counts t in the answer so far (OpenAI's API reference,
/// "frequency and presence penalties").
#[derive(Debug, Clone, Default)]
pub struct Penalties {
    presence: f32,
    frequency: f32,
    counts: HashMap<u32, u32>,
}

impl Penalties {
    /// Penalties; 0 has no effect, negative ones encourage repetition.
    pub fn new(presence: f32, frequency: f32) -> Self {
        Self { presence, frequency, counts: HashMap::new() }
    }
}

impl LogitsProcessor for Penalties {
    fn fresh(&self) -> Box<dyn LogitsProcessor> {
        Box::new(Self::new(self.presence, self.frequency))
    }

    fn process(&mut self, _seen: Seen<'_>, logits: &mut [f32]) -> Result<()> {
        for (&token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit -= self.presence + self.frequency * count as f32;
            }
        }
        Ok(())
    }

    fn chosen(&mut self, token: u32) -> Result<()> {
        *self.counts.entry(token).or_default() += 1;
        Ok(())
    }
}

/// Numbers added to the logits of single tokens.
#[derive(Debug, Clone, Default)]
pub struct Bias(Vec<(u32, f32)>);

impl Bias {
    /// Biases by token; −∞ rules a token out.
    pub fn new(biases: impl IntoIterator<Item = (u32, f32)>) -> Self {
        Self(biases.into_iter().collect())
    }
}

impl LogitsProcessor for Bias {
    fn fresh(&self) -> Box<dyn LogitsProcessor> {
        Box::new(self.clone())
    }

    /// # Errors
    /// [`Error::UnknownToken`] for a token outside of the model's vocabulary.
    fn process(&mut self, _seen: Seen<'_>, logits: &mut [f32]) -> Result<()> {
        let vocab = logits.len();
        for &(token, bias) in &self.0 {
            let logit = logits.get_mut(token as usize).ok_or_else(|| Error::unknown_token(token, vocab))?;
            *logit += bias;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Seen<'_> = Seen { tokens: &[], answer: &[] };

    #[test]
    fn penalties_count_the_answer() {
        let mut penalties = Penalties::new(0.5, 0.25);
        let mut run = |chosen: &[u32]| {
            chosen.iter().for_each(|&t| penalties.chosen(t).expect("counted"));
            let mut logits = [1.0, 2.0, -1.0];
            penalties.process(NOTHING, &mut logits).expect("processed");
            logits
        };
        assert_eq!(run(&[]), [1.0, 2.0, -1.0]);
        assert_eq!(run(&[1]), [1.0, 1.25, -1.0]);
        // Token 1 twice: 2 − 0.5 − 2 · 0.25; a token beyond the vocabulary changes nothing.
        assert_eq!(run(&[1, 2, 9]), [1.0, 1.0, -1.75]);
        let mut logits = [1.0, 2.0, -1.0];
        penalties.fresh().process(NOTHING, &mut logits).expect("processed");
        assert_eq!(logits, [1.0, 2.0, -1.0], "another answer has said nothing");
    }

    #[test]
    fn biases_add_up_and_unknown_tokens_are_errors() {
        let mut logits = [0.0, 1.0];
        let mut all = Processors::default();
        all.push(Bias::new([(0, 2.5), (1, f32::NEG_INFINITY)]));
        all.push_fn(|_, logits| logits[0] *= 2.0);
        all.clone().process(NOTHING, &mut logits).expect("processed");
        assert_eq!(logits, [5.0, f32::NEG_INFINITY]);
        let mut none = Processors::default();
        none.push(Bias::new([(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)]));
        assert!(none.process(NOTHING, &mut logits).is_err(), "nothing is left to choose");
        let error = Bias::new([(2, 1.0)]).process(NOTHING, &mut [0.0, 1.0]).expect_err("refused");
        assert!(error.to_string().contains('2'), "{error}");
    }
}
