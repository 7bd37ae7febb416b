//! Per-operation costs of a phase, summed by type.

use std::fmt::Write;

use candle_coreml::engine::OperationCost;
use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::Serialize;

/// Operations that read single rows of their weights, so bytes per second are meaningless.
const LOOKUPS: [&str; 3] = ["gather", "gather_nd", "gather_along_axis"];

/// Operations of several equal rounds of work, each with its median time in the rounds in which it ran: what interrupts
/// one round does not count. Times and calls are those of all rounds together.
pub(super) fn medians(rounds: Vec<Vec<OperationCost>>) -> Vec<OperationCost> {
    let mut all: IndexMap<(String, String), (OperationCost, Vec<u64>)> = IndexMap::new();
    for cost in rounds.into_iter().flatten() {
        match all.entry((cost.function.clone(), cost.name.clone())) {
            Entry::Vacant(new) => {
                let time = cost.nanoseconds;
                new.insert((cost, vec![time]));
            }
            Entry::Occupied(mut known) => {
                let (sum, times) = known.get_mut();
                sum.calls += cost.calls;
                sum.output_bytes = sum.output_bytes.saturating_add(cost.output_bytes);
                times.push(cost.nanoseconds);
            }
        }
    }
    let median = |(mut cost, mut times): (OperationCost, Vec<u64>)| {
        let (count, middle) = (times.len(), times.len() / 2);
        cost.nanoseconds = times.select_nth_unstable(middle).1.saturating_mul(count as u64);
        cost
    };
    all.into_values().map(median).collect()
}

/// All operations of one type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) operator: String,
    /// Calls in the phase.
    pub(super) calls: u64,
    pub(super) seconds: f64,
    /// Fraction of the time of all operations.
    pub(super) share: f64,
    /// Weight bytes read per second, for operations that read all of their weights.
    pub(super) weight_bytes_per_second: Option<f64>,
}

/// One phase of a benchmark, such as `decode`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Phase {
    pub(super) phase: String,
    /// Unit of the measurement: `token` or `prediction`.
    pub(super) unit: String,
    pub(super) units: usize,
    pub(super) seconds: f64,
    /// By type, most expensive first.
    pub(super) rows: Vec<Row>,
    /// The most expensive single operations.
    pub(super) worst: Vec<OperationCost>,
}

impl Phase {
    pub(super) fn new(phase: &str, unit: &str, units: usize, mut costs: Vec<OperationCost>) -> Self {
        let mut rows: Vec<(Row, u64)> = Vec::new();
        for cost in &costs {
            let bytes = if LOOKUPS.contains(&cost.operator.as_str()) {
                0
            } else {
                cost.weight_bytes.saturating_mul(cost.calls)
            };
            let at = rows.iter().position(|(r, _)| r.operator == cost.operator).unwrap_or_else(|| {
                let operator = cost.operator.clone();
                rows.push((Row { operator, calls: 0, seconds: 0.0, share: 0.0, weight_bytes_per_second: None }, 0));
                rows.len() - 1
            });
            rows[at].0.calls += cost.calls;
            rows[at].0.seconds += cost.nanoseconds as f64 / 1e9;
            rows[at].1 += bytes;
        }
        let seconds: f64 = rows.iter().map(|(r, _)| r.seconds).sum();
        for (row, bytes) in &mut rows {
            row.share = if seconds > 0.0 { row.seconds / seconds } else { 0.0 };
            row.weight_bytes_per_second = (*bytes > 0 && row.seconds > 0.0).then(|| *bytes as f64 / row.seconds);
        }
        let mut rows: Vec<Row> = rows.into_iter().map(|(row, _)| row).collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        costs.sort_by_key(|c| std::cmp::Reverse(c.nanoseconds));
        costs.truncate(10);
        Self { phase: phase.to_owned(), unit: unit.to_owned(), units, seconds, rows, worst: costs }
    }

    /// Milliseconds per unit for a row.
    pub(super) fn each(&self, seconds: f64) -> f64 {
        seconds * 1e3 / self.units.max(1) as f64
    }

    pub(super) fn text(&self, out: &mut String) {
        let (all, unit) = (self.each(self.seconds), &self.unit);
        let _ = writeln!(out, "\n{}: operations of {} {unit}s, {all:.3} ms per {unit}", self.phase, self.units);
        let _ = writeln!(out, "  {:<28} {:>8} {:>12} {:>7} {:>12}", "operation", "calls", "ms", "share", "weights");
        for row in &self.rows {
            let rate = row.weight_bytes_per_second.map_or(String::new(), |r| format!("{:.1} GB/s", r / 1e9));
            let (each, share) = (self.each(row.seconds), row.share * 100.0);
            let _ = writeln!(out, "  {:<28} {:>8} {each:>12.4} {share:>6.1}% {rate:>12}", row.operator, row.calls);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(operator: &str, calls: u64, nanoseconds: u64, weight_bytes: u64) -> OperationCost {
        let (function, name, output_bytes) = ("main".to_owned(), operator.to_owned(), 0);
        OperationCost { function, operator: operator.to_owned(), name, calls, nanoseconds, weight_bytes, output_bytes }
    }

    #[test]
    fn a_round_that_was_interrupted_does_not_count() {
        let round = |conv: u64| vec![cost("conv", 2, conv, 1000), cost("relu", 1, 5, 0)];
        let mut rounds = vec![round(10), round(9_000_000), round(11)];
        // Runs in one round only, as an operation of a branch does.
        rounds[2].push(cost("add", 1, 7, 0));
        let all = medians(rounds);
        let found: Vec<_> = all.iter().map(|c| (c.name.as_str(), c.calls, c.nanoseconds)).collect();
        assert_eq!(found, [("conv", 6, 33), ("relu", 3, 15), ("add", 1, 7)]);
        assert_eq!(all[0].weight_bytes, 1000, "of one call");
        assert_eq!(medians(Vec::new()), Vec::new());
    }

    #[test]
    fn operations_are_summed_by_type_with_shares_and_rates() {
        let costs = vec![
            cost("relu", 2, 1_000_000, 0),
            cost("conv", 2, 2_000_000, 1000),
            cost("conv", 2, 4_000_000, 2000),
            cost("gather", 2, 1_000_000, 1 << 30),
        ];
        let phase = Phase::new("decode", "token", 2, costs);
        assert_eq!(phase.rows.iter().map(|r| r.operator.as_str()).collect::<Vec<_>>(), ["conv", "relu", "gather"]);
        let conv = &phase.rows[0];
        assert_eq!((conv.calls, conv.share), (4, 0.75));
        assert_eq!(conv.weight_bytes_per_second, Some(6000.0 / 0.006));
        assert_eq!(phase.rows[2].weight_bytes_per_second, None, "a lookup reads rows");
        assert_eq!(phase.worst[0].nanoseconds, 4_000_000);
        assert!((phase.each(phase.seconds) - 4.0).abs() < 1e-9);
        let empty = Phase::new("decode", "token", 0, Vec::new());
        assert_eq!((empty.rows.len(), empty.each(1.0)), (0, 1000.0));
    }
}
