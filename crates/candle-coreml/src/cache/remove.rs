//! Deletes cache entries: rechecks them under the model's lock and renames them first, so that an interrupted deletion
//! is never mistaken for a complete model.

use std::fs::{self, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::paths::{ModelFolder, REMOVED};
use super::scan::is_recognised;
use super::{CacheEntry, CacheError, EntryKind, is_folder};

/// Checks that an entry may be deleted: a recognised folder below a root, reached without symbolic links.
pub(super) fn check<'a>(entry: &CacheEntry, roots: impl Iterator<Item = &'a PathBuf>) -> Result<(), CacheError> {
    let refuse = |reason| Err(CacheError::Refused { path: entry.path.clone(), reason });
    let mut roots = roots.filter_map(|root| Some((root, entry.path.strip_prefix(root).ok()?)));
    let Some((root, relative)) = roots.next() else { return refuse("it is outside the caches") };
    let mut at = root.clone();
    for part in relative.components() {
        let std::path::Component::Normal(name) = part else { return refuse("its path is not plain") };
        at.push(name);
        if !is_folder(&at) {
            return refuse("its path is not a folder, or passes through a symbolic link");
        }
    }
    if !is_recognised(entry) {
        return refuse("it is not recognised");
    }
    Ok(())
}

/// Deletes a checked entry.
pub(super) fn entry(entry: &CacheEntry) -> Result<(), CacheError> {
    if entry.kind == EntryKind::Runtime {
        delete_tree(&entry.path)?;
        if let Some(process) = entry.path.parent() {
            // The process may have other caches in this folder.
            fs::remove_dir(process).ok();
        }
        return Ok(());
    }
    let inner = entry.path.parent().filter(|p| p.file_name().is_some_and(|n| n == "snapshots"));
    let folder = inner.unwrap_or(&entry.path).parent().unwrap_or(&entry.path);
    let _lock = lock(folder)?;
    if entry.kind == EntryKind::Unfinished {
        return delete_tree(&entry.path);
    }
    let mut aside = entry.path.file_name().unwrap_or_default().to_owned();
    aside.push(REMOVED);
    let aside = entry.path.with_file_name(aside);
    delete_tree(&aside)?;
    fs::rename(&entry.path, &aside).map_err(CacheError::io(&entry.path))?;
    delete_tree(&aside)
}

/// Deletes a model's folder if only its notes are left.
pub(super) fn model_folder(root: &Path, name: &str) -> Result<(), CacheError> {
    let folder = ModelFolder::named(root, name.to_owned());
    if !folder.is_ours() {
        return Ok(());
    }
    let _lock = lock(&folder.path())?;
    for part in ["refs", "configs"] {
        delete_tree(&folder.path().join(part))?;
    }
    for part in ["snapshots", "parts"] {
        let path = folder.path().join(part);
        match fs::remove_dir(&path) {
            // The folder has files not created by this library: keep them and the folder.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(CacheError::Io { path, source: e }),
            _ => {}
        }
    }
    let marker = folder.path().join(super::paths::MARKER);
    let others = fs::read_dir(folder.path()).map_err(CacheError::io(folder.path()))?.count() > 1;
    if others {
        return Ok(());
    }
    fs::remove_file(&marker).map_err(CacheError::io(marker))?;
    fs::remove_dir(folder.path()).map_err(CacheError::io(folder.path()))
}

/// Locks a model's folder; an error if a download holds the lock.
fn lock(folder: &Path) -> Result<fs::File, CacheError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let model = ModelFolder::named(folder.parent().unwrap_or(folder), name);
    let file = model.open_lock().map_err(CacheError::io(model.lock_file()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(CacheError::Refused { path: folder.to_owned(), reason: "a download of this model is running" })
        }
        Err(TryLockError::Error(e)) => Err(CacheError::Io { path: model.lock_file(), source: e }),
    }
}

/// Deletes a folder; symbolic links in it are deleted, not followed.
fn delete_tree(path: &Path) -> Result<(), CacheError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(CacheError::io(path)),
    }
}
