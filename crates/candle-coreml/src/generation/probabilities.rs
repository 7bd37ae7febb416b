//! Log-probabilities of tokens.

/// A token and its log-probability, a natural logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenProbability {
    /// The token.
    pub token: u32,
    /// ln p; −∞ for a token that the model rules out.
    pub log_probability: f32,
}

/// How likely the model found a token, and which ones it found most likely.
///
/// These are probabilities of the model: the softmax of its logits, before penalties, biases, constraints and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities {
    /// The token that was chosen, or that stands in the prompt.
    pub chosen: TokenProbability,
    /// The most likely tokens, best first; of equals that with the smaller id.
    pub top: Vec<TokenProbability>,
}

impl Probabilities {
    /// Those of `token` and of the `count` most likely tokens after logits `[vocab]`. NaN counts as −∞.
    pub fn of(logits: &[f32], token: u32, count: usize) -> Self {
        let value = |l: f32| if l.is_nan() { f32::NEG_INFINITY } else { l };
        let largest = logits.iter().fold(f32::NEG_INFINITY, |m, &l| m.max(value(l)));
        // Σ exp(l − max) in f64: a vocabulary of 10⁵ f32 terms would lose four digits.
        let sum: f64 = logits.iter().map(|&l| f64::from(value(l) - largest).exp()).sum();
        let total = sum.ln();
        let of = |token: u32, l: f32| TokenProbability {
            token,
            log_probability: if l == f32::NEG_INFINITY { l } else { (f64::from(l - largest) - total) as f32 },
        };
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(count.min(logits.len()) + 1);
        if count > 0 {
            for (id, &l) in (0u32..).zip(logits) {
                let l = value(l);
                if best.len() == count && best.last().is_some_and(|&(_, least)| l <= least) {
                    continue;
                }
                let place = best.partition_point(|&(_, other)| other >= l);
                best.insert(place, (id, l));
                best.truncate(count);
            }
        }
        let chosen = logits.get(token as usize).map_or(f32::NEG_INFINITY, |&l| value(l));
        Self { chosen: of(token, chosen), top: best.into_iter().map(|(id, l)| of(id, l)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_softmax_and_sum_to_one() {
        // Weights 1, 3, 4 of 8; the logits are far from zero.
        let logits = [100.0, 100.0 + 3f32.ln(), f32::NAN, 100.0 + 4f32.ln(), f32::NEG_INFINITY];
        let all = Probabilities::of(&logits, 1, 5);
        assert_eq!(all.top.iter().map(|t| t.token).collect::<Vec<_>>(), [3, 1, 0, 2, 4]);
        // f32 steps at 100 are 8e-6.
        assert!((all.chosen.log_probability - (3f32 / 8.0).ln()).abs() < 1e-5, "{all:?}");
        let sum: f64 = all.top.iter().map(|t| f64::from(t.log_probability).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert_eq!(Probabilities::of(&logits, 9, 0).chosen.log_probability, f32::NEG_INFINITY);
    }

    #[test]
    fn of_equals_the_first_ones_are_kept() {
        let top = |count| {
            Probabilities::of(&[1.0, 2.0, 2.0, 1.0, 2.0], 0, count).top.iter().map(|t| t.token).collect::<Vec<_>>()
        };
        assert_eq!(top(2), [1, 2]);
        assert_eq!(top(4), [1, 2, 4, 0]);
        assert_eq!(top(9).len(), 5);
        assert!(top(0).is_empty() && Probabilities::of(&[], 0, 3).top.is_empty());
    }
}
