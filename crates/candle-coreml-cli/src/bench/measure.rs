//! Results of a benchmark and their statistics.

use candle_coreml::anemll::Dimensions;
use serde::Serialize;

use super::profile::Phase;

/// Results specific to language models.
#[derive(Debug, Clone)]
pub(super) struct Language {
    pub(super) dimensions: Dimensions,
    pub(super) first_token_seconds: f64,
    pub(super) prompt: usize,
    pub(super) prefill_rate: f64,
    pub(super) decode_rate: f64,
    /// The first token of another turn: what was decoded is taken back, and one token runs after the prompt.
    pub(super) turn_seconds: f64,
    /// Conversations that decoded together, and the tokens of all of them per second.
    pub(super) streams: Option<(u8, f64)>,
    /// Only for reports.
    pub(super) by_position: Vec<AtPosition>,
}

/// Decoding with this many tokens in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct AtPosition {
    pub(super) position: usize,
    pub(super) tokens_per_second: f64,
}

/// Everything measured.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) engine: String,
    pub(super) load_seconds: f64,
    /// First prediction of a model that is not a language model.
    pub(super) first_seconds: f64,
    /// Seconds per token, or per prediction.
    pub(super) seconds: Vec<f64>,
    /// Names and shapes of generated inputs.
    pub(super) inputs: Vec<(String, Vec<usize>)>,
    /// Rows of each prediction, if they were asked for.
    pub(super) rows: Option<usize>,
    pub(super) language: Option<Language>,
    pub(super) profiles: Vec<Phase>,
}

impl Measured {
    /// Latency distribution.
    pub(super) fn latency(&self) -> Distribution {
        Distribution::of(&self.seconds)
    }
}

/// Summary statistics of a distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Distribution {
    pub(super) count: usize,
    pub(super) mean: f64,
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) most: f64,
}

impl Distribution {
    /// Quantiles are observed values (nearest rank): the smallest value with at least that share at or below it.
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return Self::default() };
        let quantile = |q: f64| sorted[((sorted.len() as f64 * q).ceil() as usize).saturating_sub(1).min(last)];
        Self {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            least: sorted[0],
            median: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            most: sorted[last],
        }
    }
}

/// Peak resident size of this process in bytes, if the system reports it: total, and without file-backed pages.
pub(super) fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let read = |key: &str| -> Option<u64> {
        let line = status.lines().find(|l| l.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((read("VmHWM:")?, read("RssAnon:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let d = Distribution::of(&hundred);
        assert_eq!((d.count, d.mean, d.least, d.most), (100, 50.5, 1.0, 100.0));
        assert_eq!((d.median, d.p90, d.p99), (50.0, 90.0, 99.0));
        let one = Distribution::of(&[3.0]);
        assert_eq!((one.median, one.p99, one.least, one.most), (3.0, 3.0, 3.0, 3.0));
        assert_eq!(Distribution::of(&[]), Distribution::default());
    }
}
