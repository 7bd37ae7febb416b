//! Resource limits of a prediction: memory, work and loop rounds.

use std::sync::LazyLock;

/// Resource limits of a prediction, which bound the run time and memory of any program. Exceeding one is an error that
/// names the operation, the requested amount and the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rounds of all loops together.
    pub rounds: usize,
    /// Bytes in use at once by values and temporaries of operations. Stored constants and states are excluded: memory
    /// needed to load constants, and states, are each counted separately against the same limit.
    pub memory: usize,
    /// Work of one operation, in elements produced; 32 products summed count as one element. About one nanosecond per
    /// element on one core.
    pub operation_work: u64,
    /// Work of all loops together, in the same unit; each round, and each step within it, costs 1000 in addition to its
    /// elements and products.
    pub loop_work: u64,
}

impl Default for Limits {
    /// 16 million rounds; three quarters of the memory available to this process, or of 16 GiB if unknown; 2³⁹ for one
    /// operation, i.e. 1.8 · 10¹³ products; 2³² for loops, a few seconds. The environment variables
    /// `CANDLE_COREML_MEMORY` (in bytes, or as `6G`) and `CANDLE_COREML_LOOP_WORK`, read once, override memory and loop
    /// work.
    fn default() -> Self {
        static READ: LazyLock<Limits> = LazyLock::new(Limits::of_environment);
        *READ
    }
}

impl Limits {
    fn of_environment() -> Self {
        let known = crate::machine::memory().unwrap_or(usize::try_from(1u64 << 34).unwrap_or(usize::MAX)) / 4 * 3;
        let named = |name: &str| std::env::var(name).ok().and_then(|text| amount(&text));
        Self {
            rounds: 1 << 24,
            memory: named(MEMORY).and_then(|n| usize::try_from(n).ok()).unwrap_or(known),
            operation_work: 1 << 39,
            loop_work: named(LOOP_WORK).unwrap_or(1 << 32),
        }
    }
}

/// Environment variables that override limits.
const MEMORY: &str = "CANDLE_COREML_MEMORY";
const LOOP_WORK: &str = "CANDLE_COREML_LOOP_WORK";

/// Parses a number with an optional binary suffix K, M, G or T, such as `6G`.
fn amount(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = ["K", "M", "G", "T"].iter().position(|unit| text.ends_with(unit));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    digits.parse::<u64>().ok()?.checked_mul(1 << (10 * unit.map_or(0, |power| power + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!(["17", " 2K ", "3M", "6G", "1T"].map(amount), [17, 2 << 10, 3 << 20, 6 << 30, 1 << 40].map(Some));
        assert_eq!(["", "G", "-1", "1.5G", "6GB", "99999999999T"].map(amount), [None; 6]);
    }

    #[test]
    fn limits_follow_the_memory_of_the_machine() {
        let Some(all) = crate::machine::memory() else { return };
        if std::env::var_os(MEMORY).is_none() {
            assert!(Limits::default().memory <= all && Limits::default().memory >= all / 2);
        }
    }
}
