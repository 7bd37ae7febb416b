//! One folder of a cache.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

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
