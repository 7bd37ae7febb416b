//! Lists and cleans the caches on this machine.
//!
//! [`CacheManager`] handles two kinds of folders: models downloaded by [`hub`](crate::hub), and the per-process caches
//! of Apple's Core ML runtime (`{process}-{hash}/com.apple.e5rt.e5bundlecache` in the user's caches). It deletes
//! nothing else: no unrecognised folder, nothing behind a symbolic link, nothing outside its roots.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

pub(crate) mod paths;
mod remove;
mod scan;

pub use paths::{Receipt, ReceiptFile, default_root};

/// Errors of cache operations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A folder can't be read or deleted.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An entry that must not be deleted.
    #[error("{path}: it is not deleted, because {reason}", path = path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// A malformed glob pattern.
    #[error("`{pattern}` is not a pattern: {message}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The problem.
        message: String,
    },
}

impl CacheError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Stable name of the kind of failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Refused { .. } => "refused",
            Self::Pattern { .. } => "pattern",
        }
    }
}

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A complete model, or a single component.
    Model,
    /// Leftovers of an interrupted download or deletion.
    Unfinished,
    /// A cache of Apple's Core ML runtime.
    Runtime,
}

/// A cache entry; each can be deleted on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheEntry {
    /// Its kind.
    pub kind: EntryKind,
    /// `org/name` of a model, `{process}-{hash}` of a runtime cache. Patterns match this name.
    pub name: String,
    /// Commit of a complete model.
    pub commit: Option<String>,
    /// Its folder.
    pub path: PathBuf,
    /// Total size of its files in bytes.
    pub bytes: u64,
    /// Time of last use, if known.
    pub last_used: SystemTime,
}

impl CacheEntry {
    /// Time since the last use.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.last_used).unwrap_or_default()
    }
}

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

/// Lists and cleans caches below the given roots; never reads or deletes outside them.
#[derive(Debug, Clone)]
pub struct CacheManager {
    models: Option<PathBuf>,
    runtime: Vec<PathBuf>,
}

impl CacheManager {
    /// Manages the models in `models` and the runtime caches directly below each folder in `runtime`.
    pub fn new(models: Option<PathBuf>, runtime: Vec<PathBuf>) -> Self {
        Self { models, runtime }
    }

    /// Manages the caches of the current user: the models in [`default_root`], and on Apple platforms the runtime
    /// caches in `~/Library/Caches`.
    pub fn from_environment() -> Self {
        let library = std::env::home_dir().filter(|_| cfg!(target_vendor = "apple"));
        Self::new(default_root(), library.map(|h| h.join("Library/Caches")).into_iter().collect())
    }

    /// The models folder.
    pub fn models(&self) -> Option<&Path> {
        self.models.as_deref()
    }

    /// All entries; models first, by name.
    ///
    /// # Errors
    /// If a folder can't be read.
    pub fn entries(&self) -> Result<Vec<CacheEntry>, CacheError> {
        let mut entries = Vec::new();
        if let Some(root) = &self.models {
            scan::models(root, &mut entries)?;
        }
        for root in &self.runtime {
            scan::runtime(root, &mut entries)?;
        }
        Ok(entries)
    }

    /// Complete models, without single components.
    ///
    /// # Errors
    /// Same as [`CacheManager::entries`].
    pub fn list_models(&self) -> Result<Vec<CacheEntry>, CacheError> {
        let mut entries = self.entries()?;
        entries.retain(|e| e.kind == EntryKind::Model && e.path.file_name().is_some_and(|n| n.len() == 40));
        Ok(entries)
    }

    /// Cleans the entries that `rule` selects.
    ///
    /// # Errors
    /// If a pattern is malformed or a root can't be read. Entries that can't be deleted are in the report.
    pub fn clean(&self, rule: &CleanRule, mode: CleanMode) -> Result<CleanReport, CacheError> {
        let chosen = choose(self.entries()?, rule, SystemTime::now())?;
        Ok(self.delete(chosen, mode))
    }

    /// Deletes all snapshots, unfinished downloads and notes of a model. Returns an empty report if there are none.
    ///
    /// # Errors
    /// Same as [`CacheManager::entries`].
    pub fn remove_model(&self, repository: &str, mode: CleanMode) -> Result<CleanReport, CacheError> {
        let mut entries = self.entries()?;
        entries.retain(|e| e.kind != EntryKind::Runtime && e.name == repository);
        let known = !entries.is_empty();
        let report = self.delete(entries, mode);
        if let (Some(root), CleanMode::Delete, true, true) = (&self.models, mode, known, report.kept.is_empty()) {
            remove::model_folder(root, &paths::folder_name(repository))?;
        }
        Ok(report)
    }

    /// Deletes the given entries, rechecking each one first.
    pub fn delete(&self, entries: Vec<CacheEntry>, mode: CleanMode) -> CleanReport {
        let mut report = CleanReport::default();
        for entry in entries {
            let roots = self.models.iter().chain(&self.runtime);
            let result = remove::check(&entry, roots).and_then(|()| match mode {
                CleanMode::DryRun => Ok(()),
                CleanMode::Delete => remove::entry(&entry),
            });
            match result {
                Ok(()) => report.removed.push(entry),
                Err(e) => report.kept.push((entry, e)),
            }
        }
        report
    }
}

/// Entries that a rule selects.
fn choose(mut entries: Vec<CacheEntry>, rule: &CleanRule, now: SystemTime) -> Result<Vec<CacheEntry>, CacheError> {
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

/// Returns true for a folder that is not a symbolic link.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
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
