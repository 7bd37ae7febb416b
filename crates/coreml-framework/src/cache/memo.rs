//! Keys of this process's sources: the functions of one package are loaded one after another, and hashing reads every
//! byte.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::key::{CacheKey, collect};
use super::{CacheError, folders};

/// Packages of one program; the oldest is forgotten first.
const MOST: usize = 64;

/// A file that changed this recently may change again without a new time of modification.
const SETTLED: Duration = Duration::from_secs(2);

/// One file: its name in the source, size, time of modification and identity.
type Stamp = (String, u64, SystemTime, Option<(u64, u64)>);

static KNOWN: Mutex<Vec<(PathBuf, String, Vec<Stamp>, CacheKey)>> = Mutex::new(Vec::new());

/// Names, sizes, times and identities of a source's files.
pub(super) fn stamps(source: &Path) -> Result<Vec<Stamp>, CacheError> {
    let mut files = Vec::new();
    collect(source, &mut Vec::new(), &mut files)?;
    files.sort();
    let stamp = |(name, path): (String, PathBuf)| {
        let kind = std::fs::metadata(&path).map_err(|e| CacheError::io(&path, e))?;
        let modified = kind.modified().map_err(|e| CacheError::io(&path, e))?;
        Ok((name, kind.len(), modified, folders::identity(&kind)))
    };
    files.into_iter().map(stamp).collect()
}

/// [`CacheKey::of`], remembered while the files stay the same.
pub(super) fn key(source: &Path, system: &str) -> Result<CacheKey, CacheError> {
    let path = std::fs::canonicalize(source).map_err(|e| CacheError::io(source, e))?;
    let began = SystemTime::now();
    let before = stamps(&path)?;
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let same =
        |(at, on, files, _): &&(PathBuf, String, Vec<Stamp>, CacheKey)| *at == path && on == system && *files == before;
    if let Some((.., key)) = known().iter().find(same) {
        return Ok(key.clone());
    }
    let key = CacheKey::of(&path, system)?;
    let settled = before.iter().all(|(_, _, modified, _)| modified.checked_add(SETTLED).is_some_and(|t| t < began));
    if settled && stamps(&path)? == before {
        let mut known = known();
        known.retain(|(at, on, ..)| *at != path || on != system);
        if known.len() == MOST {
            known.remove(0);
        }
        known.push((path, system.to_owned(), before, key.clone()));
    }
    Ok(key)
}
