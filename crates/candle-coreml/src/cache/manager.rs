//! Lists and deletes entries below the given roots.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::clean::choose;
use super::{CacheEntry, CacheError, CleanMode, CleanReport, CleanRule, EntryKind, default_root, paths, remove, scan};

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
