//! Which entries cleaning selects, and what it did.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::{CacheEntry, CacheError, EntryKind};

/// Which entries to clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CleanRule {
    /// Entries not used for this long.
    OlderThan(Duration),
    /// The least recently used entries, until at most this many bytes remain.
    Budget(u64),
    /// Entries whose name matches a glob: `anemll/*`, `*-4B-*`.
    Matching(String),
    /// All entries.
    All,
}

/// Dry run or deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CleanMode {
    /// Report only.
    #[default]
    DryRun,
    /// Delete.
    Delete,
}

/// Result of cleaning.
#[derive(Debug, Default)]
pub struct CleanReport {
    /// Deleted entries; in a dry run, those that would be deleted.
    pub removed: Vec<CacheEntry>,
    /// Entries that could not be deleted, and why.
    pub kept: Vec<(CacheEntry, CacheError)>,
}

impl CleanReport {
    /// Total size of the removed entries in bytes.
    pub fn bytes(&self) -> u64 {
        self.removed.iter().fold(0, |sum, e| sum.saturating_add(e.bytes))
    }
}

/// Entries that a rule selects.
pub(super) fn choose(
    mut entries: Vec<CacheEntry>,
    rule: &CleanRule,
    now: SystemTime,
) -> Result<Vec<CacheEntry>, CacheError> {
    match rule {
        CleanRule::All => {}
        CleanRule::OlderThan(age) => entries.retain(|e| e.age(now) >= *age),
        CleanRule::Matching(pattern) => {
            let glob = glob::Pattern::new(pattern)
                .map_err(|e| CacheError::Pattern { pattern: pattern.clone(), message: e.to_string() })?;
            entries.retain(|e| glob.matches(&e.name));
        }
        CleanRule::Budget(budget) => {
            let mut total: u64 = entries.iter().fold(0, |sum, e| sum.saturating_add(e.bytes));
            // Unfinished downloads go before models.
            entries.sort_by_key(|e| (e.kind != EntryKind::Unfinished, e.last_used));
            entries.retain(|e| {
                let over = total > *budget;
                if over {
                    total -= e.bytes;
                }
                over
            });
        }
    }
    let mut seen = HashSet::new();
    entries.retain(|e| seen.insert(e.path.clone()));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: EntryKind, bytes: u64, days: u64) -> CacheEntry {
        let last_used = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * (100 - days));
        CacheEntry { kind, name: name.to_owned(), commit: None, path: name.into(), bytes, last_used }
    }

    #[test]
    fn rules_choose_by_age_size_and_name() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 100);
        let chosen = |rule: CleanRule| {
            let entries = vec![
                entry("a/new", EntryKind::Model, 10, 1),
                entry("a/old", EntryKind::Model, 20, 50),
                entry("b/part", EntryKind::Unfinished, 5, 0),
                entry("proc-0123456789abcdef", EntryKind::Runtime, 40, 10),
            ];
            choose(entries, &rule, now).map(|c| c.into_iter().map(|e| e.name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(CleanRule::All).expect("all").len(), 4);
        let days = |n: u64| CleanRule::OlderThan(Duration::from_secs(86_400 * n));
        assert_eq!(chosen(days(10)).expect("old"), ["a/old", "proc-0123456789abcdef"]);
        assert_eq!(chosen(days(51)).expect("none"), [""; 0]);
        assert_eq!(chosen(CleanRule::Matching("a/*".to_owned())).expect("a"), ["a/new", "a/old"]);
        assert_eq!(chosen(CleanRule::Matching("a/[".to_owned())).expect_err("no glob").kind(), "pattern");
        assert_eq!(chosen(CleanRule::Budget(75)).expect("fits"), [""; 0]);
        assert_eq!(chosen(CleanRule::Budget(60)).expect("two"), ["b/part", "a/old"]);
        assert_eq!(chosen(CleanRule::Budget(0)).expect("all").len(), 4);
    }
}
