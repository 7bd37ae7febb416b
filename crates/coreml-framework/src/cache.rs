//! On-disk cache of compiled models: each source is compiled once per system version.
//!
//! ```text
//! root/
//!   KEY.mlmodelc/   a complete compiled model, renamed into place atomically
//!   KEY.files       its system, files and their sizes, written first: a model without its list, or less than it, is damaged
//!   KEY.refused     why Core ML can't run the model, by compute units and function; KEY.proved: that it can
//!   KEY.tmp/        staging folder of the lock holder
//!   KEY.source/     copy of a source that has symbolic links, while it is compiled
//!   KEY.lock        held (by the operating system's file lock) while KEY is built or removed
//! ```
//!
//! The holder of `KEY.lock` owns `KEY.tmp` and `KEY.source`; leftovers of a crashed process are removed. The system
//! releases the lock when its process dies, so no heuristics based on age or process id are needed.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod contents;
mod folders;
mod key;
mod memo;
mod source;
mod verdict;

use folders::{copy, remove, size};
pub use key::CacheKey;
pub use verdict::{Outcome, Question, Verdict};

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
    list: PathBuf,
    source: PathBuf,
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

    /// Missing or shortened files of the compiled model with this key; `None` if it is whole, or not cached.
    pub fn damage(&self, key: &CacheKey) -> Option<String> {
        contents::damage(&self.lookup(key)?, &self.place(key, "files"))
    }

    fn whole(&self, key: &CacheKey) -> Option<PathBuf> {
        self.lookup(key).filter(|_| self.damage(key).is_none())
    }

    /// Returns the compiled model, or the right to build it; waits while another process builds it. A damaged model is
    /// removed and built again.
    ///
    /// # Errors
    /// If the folder cannot be written; [`CacheError::Busy`] on timeout.
    pub fn slot(&self, key: &CacheKey) -> Result<Slot, CacheError> {
        self.slot_while(key, &|| true)
    }

    /// [`slot`](Self::slot) that stops waiting for another process when `more` returns false.
    ///
    /// # Errors
    /// Same as `slot`; [`CacheError::Busy`] also if the wait was given up.
    pub fn slot_while(&self, key: &CacheKey, more: &dyn Fn() -> bool) -> Result<Slot, CacheError> {
        if let Some(path) = self.whole(key) {
            return Ok(Slot::Ready(path));
        }
        std::fs::create_dir_all(&self.root).map_err(|e| CacheError::io(&self.root, e))?;
        let lock = self.lock_while(key, self.patience, more)?;
        // Built while this process waited.
        if let Some(path) = self.whole(key) {
            return Ok(Slot::Ready(path));
        }
        let (staging, source) = (self.place(key, "tmp"), self.place(key, "source"));
        remove(&staging)?;
        remove(&source)?;
        if let Some(damage) = self.damage(key) {
            tracing::warn!(%key, damage, "the compiled model is damaged; it is built again");
            self.withdraw(key, &staging)?;
        }
        let (target, list) = (self.place(key, "mlmodelc"), self.place(key, "files"));
        Ok(Slot::Vacant(Reservation { staging, target, list, source, _lock: lock }))
    }

    /// Removes a compiled model by way of the staging folder. The caller holds the lock.
    fn withdraw(&self, key: &CacheKey, staging: &Path) -> Result<(), CacheError> {
        let path = self.place(key, "mlmodelc");
        match std::fs::rename(&path, staging) {
            Ok(()) => remove(staging)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(CacheError::io(&path, e)),
        };
        remove(&self.place(key, "files")).map(drop)
    }

    /// Removes a compiled model atomically.
    ///
    /// # Errors
    /// Same as [`ModelCache::slot`].
    pub fn evict(&self, key: &CacheKey) -> Result<(), CacheError> {
        if self.lookup(key).is_none() {
            return Ok(());
        }
        let _lock = self.lock(key, self.patience)?;
        let staging = self.place(key, "tmp");
        remove(&staging)?;
        self.withdraw(key, &staging)
    }

    /// Removes leftovers of crashed processes and returns the number of folders removed. Keeps models being built.
    ///
    /// # Errors
    /// If a folder cannot be read or removed.
    pub fn sweep(&self) -> Result<usize, CacheError> {
        let mut removed = 0;
        for extension in ["tmp", "source"] {
            for key in self.keys(extension)? {
                if let Some(_lock) = self.free_lock(&key)? {
                    removed += usize::from(remove(&self.place(&key, extension))?);
                }
            }
        }
        Ok(removed)
    }

    /// Removes models that another system compiled and what was recorded on it: neither is ever used again. Returns the
    /// number of models and records removed. Keeps models in use by another process that builds or removes them.
    ///
    /// # Errors
    /// If a folder cannot be read, or a file cannot be removed.
    pub fn retire(&self, system: &str) -> Result<usize, CacheError> {
        let mut removed = 0;
        for key in self.keys("mlmodelc")? {
            if contents::system(&self.place(&key, "files")).as_deref() == Some(system) {
                continue;
            }
            if let Some(_lock) = self.free_lock(&key)? {
                let staging = self.place(&key, "tmp");
                remove(&staging)?;
                self.withdraw(&key, &staging)?;
                removed += 1;
            }
        }
        Ok(removed + self.retire_verdicts(system)?)
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
        self.lock_while(key, patience, &|| true)
    }

    /// The lock, unless another process holds it.
    fn free_lock(&self, key: &CacheKey) -> Result<Option<File>, CacheError> {
        match self.lock(key, Duration::ZERO) {
            Ok(lock) => Ok(Some(lock)),
            Err(CacheError::Busy { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn lock_while(&self, key: &CacheKey, patience: Duration, more: &dyn Fn() -> bool) -> Result<File, CacheError> {
        let path = self.place(key, "lock");
        let io = |e| CacheError::io(&path, e);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
        let since = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(io(e)),
                Err(TryLockError::WouldBlock) if since.elapsed() >= patience || !more() => {
                    return Err(CacheError::Busy { path, waited: since.elapsed().min(patience) });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(POLL.min(patience)),
            }
        }
    }
}

impl Reservation {
    /// The source to compile, and whether it is a copy: one without symbolic links, because the compiler copies links
    /// as they are, and relative ones then point nowhere.
    ///
    /// # Errors
    /// If a link points nowhere, or the copy cannot be written.
    pub fn plain_source(&self, source: &Path) -> Result<(PathBuf, bool), CacheError> {
        source::plain(source, &self.source)
    }

    /// Moves a compiled model into the cache atomically; `system` is the version and build that compiled it.
    ///
    /// # Errors
    /// If it cannot be moved or, from another volume, copied, or it has a symbolic link; the cache is then unchanged.
    pub fn publish(self, compiled: &Path, system: &str) -> Result<PathBuf, CacheError> {
        match std::fs::rename(compiled, &self.staging) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                copy(compiled, &self.staging, 0)?;
                remove(compiled)?;
            }
            Err(e) => return Err(CacheError::io(compiled, e)),
        }
        contents::list(&self.staging, &self.list, system)?;
        std::fs::rename(&self.staging, &self.target).map_err(|e| CacheError::io(&self.target, e))?;
        Ok(self.target.clone())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // After a failure, the next lock holder removes the leftovers.
        for path in [&self.staging, &self.source] {
            if let Err(error) = remove(path) {
                tracing::debug!(%error, "a half-built model stays until the next attempt");
            }
        }
    }
}

#[cfg(test)]
mod tests;
