//! What one prediction may use up: memory, work and rounds of loops.

use std::sync::LazyLock;

/// What one prediction may use up, so that no program runs or grows without bound. Each is an error by name, with the
/// operation, what was wanted, and the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rounds that all its loops may make together.
    pub rounds: usize,
    /// Bytes that its values and the temporaries of its operations may take at once. Constants as stored and states are
    /// not among them: what loading makes of constants is counted by itself against the same limit, and so are states.
    pub memory: usize,
    /// Work of one operation, in elements that are made; 32 products that are summed are as much as an element. About a
    /// nanosecond each, on one core.
    pub operation_work: u64,
    /// Work of all its loops together, in the same unit; each step in a loop, and each round, has 1000 beside its elements
    /// and products.
    pub loop_work: u64,
}

impl Default for Limits {
    /// 16 million rounds; three quarters of the memory that this process may have, 16 GiB where the system does not say;
    /// 2³⁹ for one operation, which are 1.8 · 10¹³ products; 2³² for loops, a few seconds. `CANDLE_COREML_MEMORY` (in bytes,
    /// or as `6G`) and `CANDLE_COREML_LOOP_WORK` in the environment, read once, replace the memory and the work of loops.
    fn default() -> Self {
        static READ: LazyLock<Limits> = LazyLock::new(Limits::of_environment);
        *READ
    }
}

impl Limits {
    fn of_environment() -> Self {
        let known = crate::machine::memory().map_or(1 << 34, |all| all / 4 * 3);
        let named = |name: &str| std::env::var(name).ok().and_then(|text| amount(&text));
        Self {
            rounds: 1 << 24,
            memory: named(MEMORY).and_then(|n| usize::try_from(n).ok()).unwrap_or(known),
            operation_work: 1 << 39,
            loop_work: named(LOOP_WORK).unwrap_or(1 << 32),
        }
    }
}

/// Variables of the environment that limits are taken from.
const MEMORY: &str = "CANDLE_COREML_MEMORY";
const LOOP_WORK: &str = "CANDLE_COREML_LOOP_WORK";

/// A number, also of kibi, mebi, gibi and tebi: `6G`.
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
