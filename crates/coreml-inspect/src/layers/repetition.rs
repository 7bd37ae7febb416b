//! Finds layers without helpful names: a repeating sequence of operations.

/// Minimum and maximum number of operations per layer.
const LEAST: usize = 8;
const MOST: usize = 2000;
/// Minimum number of layers.
const TIMES: usize = 3;
/// Maximum length of the sequence, as the search is quadratic.
const SEARCHED: usize = 20_000;

/// Start, length and number of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repetition {
    pub(super) start: usize,
    pub(super) period: usize,
    pub(super) times: usize,
}

/// The repetition that covers most of a sequence; on ties, the one with the shortest period.
pub(super) fn find(signatures: &[u64]) -> Option<Repetition> {
    let n = signatures.len();
    if n > SEARCHED {
        return None;
    }
    let mut best: Option<Repetition> = None;
    for period in LEAST..=(n / TIMES).min(MOST) {
        let mut run = 0;
        for i in 0..n - period {
            run = if signatures[i] == signatures[i + period] { run + 1 } else { 0 };
            let times = run / period + 1;
            if times >= TIMES && best.is_none_or(|b| times * period > b.times * b.period) {
                best = Some(Repetition { start: i + 1 - run, period, times });
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_repetition_with_the_shortest_period_is_found() {
        let layer: Vec<u64> = (10..20).collect();
        let network = |times: usize| -> Vec<u64> { [vec![1, 2], layer.repeat(times), vec![3]].concat() };
        assert_eq!(find(&network(6)), Some(Repetition { start: 2, period: 10, times: 6 }));
        assert_eq!(find(&network(2)), None);
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[7; 10]), None, "too short for three of eight");
        assert_eq!(find(&[7; 30]), Some(Repetition { start: 0, period: 10, times: 3 }), "three of eight cover less");
        assert_eq!(find(&[7; 48]), Some(Repetition { start: 0, period: 8, times: 6 }));
    }
}
