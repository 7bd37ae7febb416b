//! On-disk cache of compiled models: each source is compiled once per system version.
//!
//! ```text
//! root/
//!   KEY.mlmodelc/   a complete compiled model, renamed into place atomically
//!   KEY.tmp/        staging folder of the lock holder
//!   KEY.lock        held (by the operating system's file lock) while KEY is built or removed
//! ```
//!
//! The holder of `KEY.lock` owns `KEY.tmp`; leftovers of a crashed process are removed. The system releases the lock
//! when its process dies, so no heuristics based on age or process id are needed.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod key;

pub use key::CacheKey;

/// Error of the cache or of a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Reading, writing or renaming a file or folder failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// System error.
        source: std::io::Error,
    },
    /// No key can be computed for the source.
    #[error("{} is not a cacheable model: {found}", path.display())]
    Source {
        /// File or folder.
        path: PathBuf,
        /// Kind of entry found.
        found: String,
    },
    /// Timed out waiting for another process that builds the same model.
    #[error("{}: still locked by another process after {} s", path.display(), waited.as_secs())]
    Busy {
        /// Lock file.
        path: PathBuf,
        /// Time waited.
        waited: Duration,
    },
}

impl CacheError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    fn source(path: &Path, found: impl Into<String>) -> Self {
        Self::Source { path: path.to_owned(), found: found.into() }
    }
}

/// Cache of compiled models in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCache {
    root: PathBuf,
    patience: Duration,
}

/// Cache slot of a key.
#[derive(Debug)]
pub enum Slot {
    /// A compiled model.
    Ready(PathBuf),
    /// No model yet; the holder may build it.
    Vacant(Reservation),
}

/// Exclusive right to build one model; others wait. Released on drop.
#[derive(Debug)]
pub struct Reservation {
    staging: PathBuf,
    target: PathBuf,
    /// Unlocked when the file is closed.
    _lock: File,
}

/// A cached compiled model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: CacheKey,
    /// The `.mlmodelc` folder.
    pub path: PathBuf,
    /// Total size in bytes.
    pub bytes: u64,
}

/// Returns true if a path is a compiled model, which is used in place: a folder with compiler output or the extension
/// `mlmodelc`.
pub fn is_compiled(path: &Path) -> bool {
    path.is_dir() && (path.join("coremldata.bin").is_file() || path.extension().is_some_and(|e| e == "mlmodelc"))
}

/// Polling interval of the lock.
const POLL: Duration = Duration::from_millis(20);

impl ModelCache {
    /// Creates a cache below `root`, which is created on first use.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), patience: Duration::from_secs(900) }
    }

    /// Sets the maximum wait for another process that builds the same model (default: 15 minutes).
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The user's cache folder, `~/Library/Caches/candle-coreml/compiled`; on iOS inside the app's container. `None`
    /// without a home folder.
    pub fn default_root() -> Option<PathBuf> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
        Some(PathBuf::from(home).join("Library/Caches/candle-coreml/compiled"))
    }

    /// Root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self, key: &CacheKey, extension: &str) -> PathBuf {
        self.root.join(format!("{key}.{extension}"))
    }

    /// The compiled model with this key, if cached.
    pub fn lookup(&self, key: &CacheKey) -> Option<PathBuf> {
        Some(self.place(key, "mlmodelc")).filter(|path| path.is_dir())
    }

    /// Returns the compiled model, or the right to build it; waits while another process builds it.
    ///
    /// # Errors
    /// If the folder cannot be written; [`CacheError::Busy`] on timeout.
    pub fn slot(&self, key: &CacheKey) -> Result<Slot, CacheError> {
        if let Some(path) = self.lookup(key) {
            return Ok(Slot::Ready(path));
        }
        std::fs::create_dir_all(&self.root).map_err(|e| CacheError::io(&self.root, e))?;
        let lock = self.lock(key, self.patience)?;
        // Built while this process waited.
        if let Some(path) = self.lookup(key) {
            return Ok(Slot::Ready(path));
        }
        let staging = self.place(key, "tmp");
        remove(&staging)?;
        Ok(Slot::Vacant(Reservation { staging, target: self.place(key, "mlmodelc"), _lock: lock }))
    }

    /// Removes a compiled model atomically.
    ///
    /// # Errors
    /// Same as [`ModelCache::slot`].
    pub fn evict(&self, key: &CacheKey) -> Result<(), CacheError> {
        let Some(path) = self.lookup(key) else { return Ok(()) };
        let _lock = self.lock(key, self.patience)?;
        let staging = self.place(key, "tmp");
        remove(&staging)?;
        match std::fs::rename(&path, &staging) {
            Ok(()) => remove(&staging).map(drop),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(CacheError::io(&path, e)),
        }
    }

    /// Removes leftovers of crashed processes and returns the number of folders removed. Keeps models being built.
    ///
    /// # Errors
    /// If a folder cannot be read or removed.
    pub fn sweep(&self) -> Result<usize, CacheError> {
        let mut removed = 0;
        for key in self.keys("tmp")? {
            match self.lock(&key, Duration::ZERO) {
                Ok(_lock) => removed += usize::from(remove(&self.place(&key, "tmp"))?),
                Err(CacheError::Busy { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(removed)
    }

    /// All compiled models, by key.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, CacheError> {
        let mut all = Vec::new();
        for key in self.keys("mlmodelc")? {
            let path = self.place(&key, "mlmodelc");
            let bytes = size(&path, 0)?;
            all.push(Entry { key, path, bytes });
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    fn keys(&self, extension: &str) -> Result<Vec<CacheKey>, CacheError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(CacheError::io(&self.root, e)),
        };
        let key = |name: &str| CacheKey::parse(name.strip_suffix(extension)?.strip_suffix('.')?);
        let names = entries.map(|e| e.map(|e| e.file_name()).map_err(|e| CacheError::io(&self.root, e)));
        names.filter_map(|name| name.map(|n| n.to_str().and_then(key)).transpose()).collect()
    }

    fn lock(&self, key: &CacheKey, patience: Duration) -> Result<File, CacheError> {
        let path = self.place(key, "lock");
        let io = |e| CacheError::io(&path, e);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
        let since = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(io(e)),
                Err(TryLockError::WouldBlock) if since.elapsed() >= patience => {
                    return Err(CacheError::Busy { path, waited: patience });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(POLL.min(patience)),
            }
        }
    }
}

impl Reservation {
    /// Moves a compiled model into the cache atomically.
    ///
    /// # Errors
    /// If it cannot be moved or, from another volume, copied; the cache is then unchanged.
    pub fn publish(self, compiled: &Path) -> Result<PathBuf, CacheError> {
        match std::fs::rename(compiled, &self.staging) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                copy(compiled, &self.staging, 0)?;
                remove(compiled)?;
            }
            Err(e) => return Err(CacheError::io(compiled, e)),
        }
        std::fs::rename(&self.staging, &self.target).map_err(|e| CacheError::io(&self.target, e))?;
        Ok(self.target.clone())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // After a failure, the next lock holder removes the leftovers.
        if let Err(error) = remove(&self.staging) {
            tracing::debug!(%error, "a half-built model stays until the next attempt");
        }
    }
}

/// Removes a file or folder; returns true if it existed.
fn remove(path: &Path) -> Result<bool, CacheError> {
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

fn children(path: &Path, depth: usize) -> Result<Vec<PathBuf>, CacheError> {
    if depth == MAX_DEPTH {
        return Err(CacheError::source(path, format!("folders nested deeper than {MAX_DEPTH}")));
    }
    let io = |e| CacheError::io(path, e);
    std::fs::read_dir(path).map_err(io)?.map(|entry| entry.map(|e| e.path()).map_err(io)).collect()
}

fn copy(from: &Path, to: &Path, depth: usize) -> Result<(), CacheError> {
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

fn size(path: &Path, depth: usize) -> Result<u64, CacheError> {
    let kind = std::fs::symlink_metadata(path).map_err(|e| CacheError::io(path, e))?;
    if !kind.is_dir() {
        return Ok(kind.len());
    }
    children(path, depth)?.iter().map(|child| size(child, depth + 1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn cache() -> (tempfile::TempDir, ModelCache) {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = ModelCache::new(folder.path().join("deep/root")).with_patience(Duration::from_secs(60));
        (folder, cache)
    }

    fn key(n: u64) -> CacheKey {
        CacheKey::parse(&format!("{n:064x}")).expect("64 digits")
    }

    /// A folder in the form that the compiler produces.
    fn compiled(folder: &Path, content: &str) -> PathBuf {
        let path = folder.join(format!("compiled-{content}"));
        std::fs::create_dir_all(path.join("weights")).expect("folders");
        std::fs::write(path.join("model.mil"), content).expect("a file");
        std::fs::write(path.join("weights/weight.bin"), content).expect("a file");
        path
    }

    fn vacant(cache: &ModelCache, key: &CacheKey) -> Reservation {
        match cache.slot(key).expect("a slot") {
            Slot::Vacant(reservation) => reservation,
            Slot::Ready(path) => panic!("{}", path.display()),
        }
    }

    fn content(path: &Path) -> String {
        let model = std::fs::read_to_string(path.join("model.mil")).expect("a file");
        assert_eq!(std::fs::read_to_string(path.join("weights/weight.bin")).expect("a file"), model, "whole");
        model
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Build(u64),
        Fail(u64),
        Crash(u64),
        Evict(u64),
        Sweep,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0_u64..3, 0_usize..5).prop_map(|(k, s)| match s {
            0 => Step::Build(k),
            1 => Step::Fail(k),
            2 => Step::Crash(k),
            3 => Step::Evict(k),
            _ => Step::Sweep,
        });
        prop::collection::vec(step, 0..16)
    }

    proptest! {
        #![proptest_config(crate::cases(48))]
        /// Any sequence of steps behaves like a map from keys to contents.
        #[test]
        #[cfg_attr(miri, ignore = "needs files")]
        fn the_cache_is_a_map_whatever_fails(steps in steps()) {
            let (folder, cache) = cache();
            let (mut want, mut left) = (BTreeMap::new(), 0);
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Build(k) => match cache.slot(&key(k)).expect("a slot") {
                        Slot::Ready(path) => prop_assert_eq!(Some(&content(&path)), want.get(&k)),
                        Slot::Vacant(reservation) => {
                            prop_assert!(!want.contains_key(&k));
                            let path = reservation.publish(&compiled(folder.path(), &i.to_string())).expect("published");
                            want.insert(k, content(&path));
                        }
                    },
                    Step::Fail(k) => if let Slot::Vacant(reservation) = cache.slot(&key(k)).expect("a slot") {
                        prop_assert!(reservation.publish(&folder.path().join("none")).is_err());
                    },
                    // A crashed process leaves its folder and loses its lock.
                    Step::Crash(k) => {
                        std::fs::create_dir_all(cache.place(&key(k), "tmp/half")).expect("folders");
                        left += 1;
                    }
                    Step::Evict(k) => {
                        cache.evict(&key(k)).expect("evicted");
                        want.remove(&k);
                    }
                    Step::Sweep => {
                        prop_assert!(cache.sweep().expect("swept") <= left);
                        prop_assert_eq!(cache.sweep().expect("swept"), 0);
                    }
                }
                let entries = cache.entries().expect("entries");
                let found: BTreeMap<_, _> = entries.iter().map(|e| (e.key.clone(), content(&e.path))).collect();
                let wanted: BTreeMap<_, _> = want.iter().map(|(k, v)| (key(*k), v.clone())).collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn many_threads_build_a_model_once() {
        let (folder, cache) = cache();
        let builds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (cache, builds, folder) = (&cache, &builds, folder.path());
                scope.spawn(move || {
                    let path = match cache.slot(&key(1)).expect("a slot") {
                        Slot::Ready(path) => path,
                        Slot::Vacant(reservation) => {
                            builds.fetch_add(1, Ordering::SeqCst);
                            reservation.publish(&compiled(folder, &i.to_string())).expect("published")
                        }
                    };
                    content(&path);
                });
            }
        });
        assert_eq!(builds.load(Ordering::SeqCst), 1);
        let entries = cache.entries().expect("entries");
        assert_eq!((entries.len(), entries[0].bytes), (1, 2));
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn a_lock_that_is_held_is_waited_for_but_not_for_ever() {
        let (folder, cache) = cache();
        let reservation = vacant(&cache, &key(1));
        std::fs::create_dir(&reservation.staging).expect("half a model");
        assert_eq!(cache.sweep().expect("swept"), 0, "what is being built stays");
        let hasty = cache.clone().with_patience(Duration::ZERO);
        assert!(matches!(hasty.slot(&key(1)), Err(CacheError::Busy { .. })));
        assert!(matches!(hasty.slot(&key(2)), Ok(Slot::Vacant(_))), "another model is free");
        let waits = std::thread::spawn({
            let cache = cache.clone();
            move || matches!(cache.slot(&key(1)), Ok(Slot::Ready(_)))
        });
        std::fs::remove_dir(&reservation.staging).expect("removed");
        reservation.publish(&compiled(folder.path(), "late")).expect("published");
        assert!(waits.join().expect("a slot"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn failures_leave_nothing_and_name_the_path() {
        let (folder, cache) = cache();
        assert_eq!((cache.entries().expect("none").len(), cache.sweep().expect("none")), (0, 0));
        let reservation = vacant(&cache, &key(1));
        let error = reservation.publish(&folder.path().join("missing")).expect_err("no such folder");
        assert!(error.to_string().contains("missing"), "{error}");
        assert!(cache.lookup(&key(1)).is_none());
        drop(vacant(&cache, &key(1)));
        let file = folder.path().join("file");
        std::fs::write(&file, b"").expect("a file");
        assert!(matches!(ModelCache::new(&file).slot(&key(1)), Err(CacheError::Io { .. })));
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn compiled_models_are_told_from_sources() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).expect("a folder");
            path
        };
        let (source, named, bare) = (make("a.mlpackage"), make("b.mlmodelc"), make("c"));
        std::fs::write(bare.join("coremldata.bin"), b"").expect("a file");
        assert_eq!([&source, &named, &bare].map(|p| is_compiled(p)), [false, true, true]);
        assert!(!is_compiled(&folder.path().join("none.mlmodelc")));
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn folders_are_copied_whole_from_other_volumes() {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("copy");
        copy(&compiled(folder.path(), "x"), &to, 0).expect("copied");
        assert_eq!(content(&to), "x");
        assert!(copy(&folder.path().join("none"), &folder.path().join("other"), 0).is_err());
    }
}
