//! Caches on this machine: what is in them, and how to clean them.
//!
//! [`CacheManager`] knows two kinds of folders: the models that [`hub`](crate::hub) downloaded, and the caches that
//! Apple's Core ML runtime keeps for processes (`{process}-{hash}/com.apple.e5rt.e5bundlecache` in the user's
//! caches). It deletes nothing else: no folder that it does not recognise, nothing behind a symbolic link, nothing
//! outside its roots.

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

/// What can go wrong with a cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A folder can't be read or deleted.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something that must not be deleted.
    #[error("{path}: it is not deleted, because {reason}", path = path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// A pattern that is no glob.
    #[error("`{pattern}` is not a pattern: {message}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        message: String,
    },
}

impl CacheError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A word for the kind of failure that later versions keep.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Refused { .. } => "refused",
            Self::Pattern { .. } => "pattern",
        }
    }
}

/// Kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A complete model, or a single component of one.
    Model,
    /// What an interrupted download or deletion left.
    Unfinished,
    /// A cache of Apple's Core ML runtime.
    Runtime,
}

/// One thing that can be deleted by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheEntry {
    /// What it is.
    pub kind: EntryKind,
    /// `org/name` of a model, `{process}-{hash}` of a runtime cache. Patterns match this.
    pub name: String,
    /// Commit of a complete model.
    pub commit: Option<String>,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was last used, as far as is known.
    pub last_used: SystemTime,
}

impl CacheEntry {
    /// Time since the last use.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.last_used).unwrap_or_default()
    }
}

/// Which entries are cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CleanRule {
    /// Those that were not used for this long.
    OlderThan(Duration),
    /// The least recently used ones, until the rest has at most this many bytes.
    Budget(u64),
    /// Those whose name matches a glob: `anemll/*`, `*-4B-*`.
    Matching(String),
    /// All.
    All,
}

/// Whether cleaning deletes or only says what it would delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CleanMode {
    /// Deletes nothing.
    #[default]
    DryRun,
    /// Deletes.
    Delete,
}

/// What cleaning did, or would do.
#[derive(Debug, Default)]
pub struct CleanReport {
    /// Deleted entries; in a dry run those that would be.
    pub removed: Vec<CacheEntry>,
    /// Entries that were to be deleted, and why they are still there.
    pub kept: Vec<(CacheEntry, CacheError)>,
}

impl CleanReport {
    /// Bytes of the removed entries.
    pub fn bytes(&self) -> u64 {
        self.removed.iter().fold(0, |sum, e| sum.saturating_add(e.bytes))
    }
}

/// Lists and cleans caches. Its roots are given; it never looks or deletes outside them.
#[derive(Debug, Clone)]
pub struct CacheManager {
    models: Option<PathBuf>,
    runtime: Vec<PathBuf>,
}

impl CacheManager {
    /// Manages the models in `models` and the runtime caches directly below each of `runtime`.
    pub fn new(models: Option<PathBuf>, runtime: Vec<PathBuf>) -> Self {
        Self { models, runtime }
    }

    /// Manages the caches of this user: the models where [`default_root`] says, and on Apple's systems the runtime
    /// caches in `~/Library/Caches`.
    pub fn from_environment() -> Self {
        let library = std::env::home_dir().filter(|_| cfg!(target_vendor = "apple"));
        Self::new(default_root(), library.map(|h| h.join("Library/Caches")).into_iter().collect())
    }

    /// The folder with the models.
    pub fn models(&self) -> Option<&Path> {
        self.models.as_deref()
    }

    /// All entries, models by name first.
    ///
    /// # Errors
    /// When a folder can't be read.
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

    /// The complete models, without single components.
    ///
    /// # Errors
    /// As [`CacheManager::entries`].
    pub fn list_models(&self) -> Result<Vec<CacheEntry>, CacheError> {
        let mut entries = self.entries()?;
        entries.retain(|e| e.kind == EntryKind::Model && e.path.file_name().is_some_and(|n| n.len() == 40));
        Ok(entries)
    }

    /// Cleans what a rule says.
    ///
    /// # Errors
    /// A malformed pattern, or a root that can't be read. Entries that can't be deleted are in the report.
    pub fn clean(&self, rule: &CleanRule, mode: CleanMode) -> Result<CleanReport, CacheError> {
        let chosen = choose(self.entries()?, rule, SystemTime::now())?;
        Ok(self.delete(chosen, mode))
    }

    /// Deletes all snapshots, unfinished downloads and notes of a model; an empty report when there are none.
    ///
    /// # Errors
    /// As [`CacheManager::entries`].
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

    /// Deletes given entries, each after checking again that it is what it says.
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

/// The entries that a rule means.
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
            // Nobody misses unfinished downloads as much as models.
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

/// A path that is a real folder: not a link to one.
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
