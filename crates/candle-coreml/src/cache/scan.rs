//! Finds cache entries by their layout on disk.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::paths::{self, MARKER, ModelFolder, PARTIAL, REMOVED, Receipt, is_snapshot, repository_of};
use super::{CacheEntry, CacheError, EntryKind, is_folder};

/// Name of the folder that Core ML's runtime creates.
pub(super) const RUNTIME: &str = "com.apple.e5rt.e5bundlecache";
/// Maximum depth; caches are shallower, and the bound protects the stack.
const DEEPEST: usize = 64;

/// Entries of a folder by name; none if the folder is missing.
fn children(folder: &Path) -> Result<Vec<DirEntry>, CacheError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.map_err(CacheError::io(folder))?,
    };
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(CacheError::io(folder))?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

/// Total size of all files below a path and their latest modification time. Symbolic links count as themselves;
/// files that vanish or can't be read are skipped.
fn measure(path: &Path, depth: usize) -> (u64, SystemTime) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return (0, SystemTime::UNIX_EPOCH) };
    let own = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    if !metadata.is_dir() || depth == DEEPEST {
        return (metadata.len(), own);
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|e| measure(&e.path(), depth + 1))
        .fold((0, own), |(bytes, time), (more, newer)| (bytes.saturating_add(more), time.max(newer)))
}

/// The models below a root.
pub(super) fn models(root: &Path, entries: &mut Vec<CacheEntry>) -> Result<(), CacheError> {
    for child in children(root)? {
        let Some(folder_name) = child.file_name().to_str().map(str::to_owned) else { continue };
        let Some(name) = repository_of(&folder_name) else { continue };
        let folder = ModelFolder::named(root, folder_name);
        if !folder.is_ours() || !is_folder(&folder.snapshots()) {
            continue;
        }
        for child in children(&folder.snapshots())? {
            entries.extend(snapshot(&name, &child));
        }
        let parts = folder.parts();
        if is_folder(&parts) && !children(&parts)?.is_empty() {
            let (bytes, last_used) = measure(&parts, 0);
            let kind = EntryKind::Unfinished;
            entries.push(CacheEntry { kind, name, commit: None, path: parts, bytes, last_used });
        }
    }
    Ok(())
}

/// Kind of a folder below `snapshots`; `None` if it is not ours.
fn snapshot(name: &str, child: &DirEntry) -> Option<CacheEntry> {
    let (path, file_name) = (child.path(), child.file_name().to_str()?.to_owned());
    if !is_folder(&path) {
        return None;
    }
    let (bytes, newest) = measure(&path, 0);
    let name = name.to_owned();
    let unfinished = file_name.strip_suffix(PARTIAL).or(file_name.strip_suffix(REMOVED));
    if unfinished.is_some_and(is_snapshot) {
        let kind = EntryKind::Unfinished;
        return Some(CacheEntry { kind, name, commit: None, path, bytes, last_used: newest });
    }
    if !is_snapshot(&file_name) {
        return None;
    }
    let commit = Some(Receipt::read(&path)?.commit);
    let last_used = paths::last_used(&path).unwrap_or(newest);
    Some(CacheEntry { kind: EntryKind::Model, name, commit, path, bytes, last_used })
}

/// Returns true if a name has the form `{process}-{hash}`.
pub(super) fn is_runtime_name(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(process, hash)| {
        !process.is_empty() && hash.len() >= 8 && hash.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// The caches of Core ML's runtime below a root.
pub(super) fn runtime(root: &Path, entries: &mut Vec<CacheEntry>) -> Result<(), CacheError> {
    for child in children(root)? {
        let Some(name) = child.file_name().to_str().map(str::to_owned) else { continue };
        let path = child.path().join(RUNTIME);
        if !is_runtime_name(&name) || !is_folder(&child.path()) || !is_folder(&path) {
            continue;
        }
        let (bytes, last_used) = measure(&path, 0);
        entries.push(CacheEntry { kind: EntryKind::Runtime, name, commit: None, path, bytes, last_used });
    }
    Ok(())
}

/// Returns true if a folder still has the kind found by the scan.
pub(super) fn is_recognised(entry: &CacheEntry) -> bool {
    let names = || {
        let file = entry.path.file_name()?.to_str()?;
        let parent = entry.path.parent()?;
        Some((file, parent, parent.file_name()?.to_str()?))
    };
    let Some((file, parent, parent_name)) = names() else { return false };
    match entry.kind {
        EntryKind::Runtime => file == RUNTIME && is_runtime_name(parent_name),
        EntryKind::Model => parent_name == "snapshots" && is_snapshot(file) && is_marked(parent.parent()),
        EntryKind::Unfinished if file == "parts" => is_marked(Some(parent)),
        EntryKind::Unfinished => {
            let stem = file.strip_suffix(PARTIAL).or(file.strip_suffix(REMOVED));
            parent_name == "snapshots" && stem.is_some_and(is_snapshot) && is_marked(parent.parent())
        }
    }
}

/// Returns true if a folder is a model folder with our marker.
fn is_marked(folder: Option<&Path>) -> bool {
    folder.is_some_and(|f| {
        let name = f.file_name().and_then(|n| n.to_str()).and_then(repository_of);
        name.is_some() && fs::symlink_metadata(f.join(MARKER)).is_ok_and(|m| m.is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_names_end_in_a_hash() {
        assert!(is_runtime_name("qwen-tests-0123456789abcdef"));
        for bad in ["com.apple.Safari", "-0123456789abcdef", "proc-", "proc-12", "proc-notahash"] {
            assert!(!is_runtime_name(bad), "{bad}");
        }
    }
}
