//! A form for each layer within a number of bits, by what each form costs.

use crate::scheme::Scheme;

/// A form of a weight, as measured.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Measure {
    /// The form.
    pub scheme: Scheme,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Error of the model's outputs with this weight in this form and all others as they are; smaller is better.
    pub error: f64,
}

/// Forms of a weight.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Sensitivity {
    /// Name of the weight.
    pub name: String,
    /// Number of its elements.
    pub elements: usize,
    /// Forms in any order; at least one.
    pub measures: Vec<Measure>,
}

/// The form of each weight, as an index of its measures, so that all take at most `bits` bits an element on average.
///
/// From the smallest forms, the change that removes most error per byte is made until none fits; errors of weights are
/// taken to add up. `None` if even the smallest forms take more.
pub fn choose(weights: &[Sensitivity], bits: f64) -> Option<Vec<usize>> {
    let total: usize = weights.iter().map(|w| w.elements).sum();
    let budget = total as f64 * bits / 8.0;
    let mut chosen = Vec::with_capacity(weights.len());
    for w in weights {
        let order = |a: &&usize, b: &&usize| {
            let (a, b) = (&w.measures[**a], &w.measures[**b]);
            a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error))
        };
        let all: Vec<usize> = (0..w.measures.len()).collect();
        chosen.push(*all.iter().min_by(order)?);
    }
    let mut used: u64 = weights.iter().zip(&chosen).map(|(w, &c)| w.measures[c].bytes).sum();
    if used as f64 > budget {
        return None;
    }
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (i, w) in weights.iter().enumerate() {
            let now = &w.measures[chosen[i]];
            for (j, m) in w.measures.iter().enumerate() {
                let (gain, more) = (now.error - m.error, m.bytes.saturating_sub(now.bytes));
                if gain > 0.0 && (used - now.bytes + m.bytes) as f64 <= budget {
                    let worth = gain / (more.max(1) as f64);
                    if best.is_none_or(|b| worth > b.0) {
                        best = Some((worth, i, j));
                    }
                }
            }
        }
        let Some((_, i, j)) = best else { return Some(chosen) };
        used = used - weights[i].measures[chosen[i]].bytes + weights[i].measures[j].bytes;
        chosen[i] = j;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(name: &str, errors: [f64; 3]) -> Sensitivity {
        let form = |(bits, error): (usize, f64)| Measure {
            scheme: Scheme::Palette { bits, group: None, vector: 1 },
            bytes: bits as u64 * 10,
            error,
        };
        Sensitivity {
            name: name.to_owned(),
            elements: 80,
            measures: [2, 4, 8].into_iter().zip(errors).map(form).collect(),
        }
    }

    #[test]
    fn bits_go_where_they_remove_most_error() {
        let weights = [weight("robust", [0.2, 0.1, 0.0]), weight("sensitive", [9.0, 3.0, 0.1])];
        // 2 and 8 bits are 5 on average; the sensitive weight takes them.
        assert_eq!(choose(&weights, 5.0), Some(vec![0, 2]));
        assert_eq!(choose(&weights, 8.0), Some(vec![2, 2]));
        assert_eq!(choose(&weights, 2.0), Some(vec![0, 0]));
        assert_eq!(choose(&weights, 1.9), None);
        assert_eq!(choose(&[], 4.0), Some(vec![]));
        // More bits that gain nothing are not spent.
        assert_eq!(choose(&[weight("flat", [0.0, 0.0, 0.0])], 8.0), Some(vec![0]));
    }
}
