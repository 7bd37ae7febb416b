//! Files and folders of the cache: removed, copied, measured.

use std::path::{Path, PathBuf};

use super::CacheError;

/// Removes a file or folder; returns true if it existed.
pub(super) fn remove(path: &Path) -> Result<bool, CacheError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(CacheError::io(path, e)),
    }
}

/// Compiled models have about three levels of folders.
const MAX_DEPTH: usize = 16;

pub(super) fn children(path: &Path, depth: usize) -> Result<Vec<PathBuf>, CacheError> {
    if depth == MAX_DEPTH {
        return Err(CacheError::source(path, format!("folders nested deeper than {MAX_DEPTH}")));
    }
    let io = |e| CacheError::io(path, e);
    std::fs::read_dir(path).map_err(io)?.map(|entry| entry.map(|e| e.path()).map_err(io)).collect()
}

pub(super) fn copy(from: &Path, to: &Path, depth: usize) -> Result<(), CacheError> {
    if !from.is_dir() {
        return std::fs::copy(from, to).map(drop).map_err(|e| CacheError::io(from, e));
    }
    std::fs::create_dir(to).map_err(|e| CacheError::io(to, e))?;
    for child in children(from, depth)? {
        if let Some(name) = child.file_name() {
            copy(&child, &to.join(name), depth + 1)?;
        }
    }
    Ok(())
}

pub(super) fn size(path: &Path, depth: usize) -> Result<u64, CacheError> {
    let kind = std::fs::symlink_metadata(path).map_err(|e| CacheError::io(path, e))?;
    if !kind.is_dir() {
        return Ok(kind.len());
    }
    children(path, depth)?.iter().map(|child| size(child, depth + 1)).sum()
}

/// Writes a small file atomically. Writers of one name are kept apart by the lock of its key.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CacheError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|e| CacheError::io(path, e))
}

/// Device and number of a file, where the system has them.
pub(super) fn identity(kind: &std::fs::Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((kind.dev(), kind.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = kind;
        None
    }
}
