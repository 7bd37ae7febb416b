//! Sampling of tokens from logits.

use rand::SeedableRng;
use rand::distr::{Distribution, weighted::WeightedIndex};
use rand::rngs::StdRng;

/// Sampling parameters. A temperature of 0 is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 selects the most likely token.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of tokens with at least this total probability.
    pub top_p: f32,
    /// Drops tokens whose probability is below this fraction of the most likely token's.
    pub min_p: f32,
    /// Divides positive logits of tokens seen before, multiplies negative ones; 1 disables it.
    pub repetition_penalty: f32,
    /// Random seed; the same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 299_792_458 }
    }
}

impl Sampling {
    /// Whether the token with the largest logit is chosen as the model gives it.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 && self.repetition_penalty == 1.0
    }
}

fn finite(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit }
}

/// The first of the largest logits; 0 if there are none.
fn best(logits: &[f32]) -> u32 {
    let larger = |b: usize, (i, &l): (usize, &f32)| if l > finite(logits[b]) { i } else { b };
    logits.iter().enumerate().fold(0, larger) as u32
}

/// Chooses tokens; holds the random generator.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: StdRng,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    pub fn new(sampling: Sampling) -> Self {
        let rng = StdRng::seed_from_u64(sampling.seed);
        Self { sampling, rng }
    }

    /// Samples the next token after `seen`. NaN logits are never sampled.
    pub fn choose(&mut self, logits: &[f32], seen: &[u32]) -> u32 {
        if self.sampling.is_greedy() {
            return best(logits);
        }
        let mut logits: Vec<f32> = logits.iter().copied().map(finite).collect();
        let penalty = self.sampling.repetition_penalty;
        if penalty != 1.0 {
            let mut unique = seen.to_vec();
            unique.sort_unstable();
            unique.dedup();
            for token in unique {
                if let Some(l) = logits.get_mut(token as usize) {
                    *l = if *l > 0.0 { *l / penalty } else { *l * penalty };
                }
            }
        }
        if self.sampling.temperature <= 0.0 || logits.is_empty() {
            return best(&logits);
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        if self.sampling.top_k > 0 {
            order.truncate(self.sampling.top_k);
        }
        let top = logits[order[0]];
        let mut weights: Vec<f32> =
            order.iter().map(|&i| ((logits[i] - top) / self.sampling.temperature).exp()).collect();
        let kept = weights.iter().take_while(|&&w| w >= self.sampling.min_p).count().max(1);
        weights.truncate(kept);
        let total: f32 = weights.iter().sum();
        let mut sum = 0.0;
        let kept = weights.iter().position(|w| {
            sum += w;
            sum >= self.sampling.top_p * total
        });
        weights.truncate(kept.map_or(weights.len(), |k| k + 1));
        match WeightedIndex::new(&weights) {
            Ok(distribution) => order[distribution.sample(&mut self.rng)] as u32,
            // All weights are zero or not finite: nothing to sample.
            Err(_) => best(&logits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_largest_and_never_a_nan() {
        let mut s = Sampler::new(Sampling::default());
        assert_eq!(s.choose(&[0.0, 3.0, f32::NAN, 3.0], &[]), 1);
        assert_eq!(s.choose(&[], &[]), 0);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens_with_the_right_frequency() {
        let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
        let draw =
            |s: &mut Sampler| (0..2000).map(|_| s.choose(&[0.0, 1.0, f32::NEG_INFINITY], &[])).collect::<Vec<_>>();
        let a = draw(&mut Sampler::new(sampling.clone()));
        assert_eq!(a, draw(&mut Sampler::new(sampling)));
        // P(1) = e / (1 + e) = 0.731; three standard deviations over 2,000 samples are 0.03.
        let share = a.iter().filter(|&&t| t == 1).count() as f64 / 2000.0;
        assert!((share - 0.731).abs() < 0.03, "{share}");
        assert!(!a.contains(&2));
    }

    #[test]
    fn limits_cut_the_tail() {
        let logits = [2.0, 1.9, 0.0, -1.0];
        let only = |sampling: Sampling| {
            let mut s = Sampler::new(sampling);
            (0..500).map(|_| s.choose(&logits, &[])).max()
        };
        let hot = Sampling { temperature: 5.0, ..Sampling::default() };
        assert_eq!(only(Sampling { top_k: 1, ..hot.clone() }), Some(0));
        assert_eq!(only(Sampling { top_k: 2, ..hot.clone() }), Some(1));
        assert_eq!(only(Sampling { min_p: 0.9, ..hot.clone() }), Some(1));
        assert_eq!(only(Sampling { top_p: 0.01, ..hot }), Some(0));
    }

    #[test]
    fn repetition_is_penalized_in_both_signs() {
        let mut s = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        assert_eq!(s.choose(&[3.0, 2.0], &[0]), 1);
        assert_eq!(s.choose(&[-1.0, -1.5], &[0, 0]), 1);
    }
}
