//! Compiles sources once per source and system version.

use std::path::{Path, PathBuf};

use objc2::rc::autoreleasepool;
use objc2_core_ml::MLModel;

use super::foundation::{failure, os_version, url};
use crate::cache::{CacheKey, ModelCache, Slot, is_compiled};
use crate::error::NativeError;
use crate::options::Options;

/// A compiled model on disk.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    /// The `.mlmodelc` folder.
    pub(super) path: PathBuf,
    /// Its cache entry, if it was already cached.
    cached: Option<(ModelCache, CacheKey)>,
}

impl Compiled {
    /// Removes the model from the cache, to be recompiled; returns true if it came from there. A model compiled just
    /// now stays: it would fail again.
    pub(super) fn evict(&self) -> Result<bool, NativeError> {
        match &self.cached {
            Some((cache, key)) => cache.evict(key).map(|()| true).map_err(NativeError::from),
            None => Ok(false),
        }
    }
}

/// Returns the compiled model, from the cache or newly compiled. Blocks: hashing reads every file of the source, and
/// the first compilation of a large model takes minutes.
///
/// # Errors
/// If the source cannot be read or compiled, or the cache cannot be written.
pub(super) fn compiled(source: &Path, options: &Options) -> Result<Compiled, NativeError> {
    if is_compiled(source) {
        return Ok(Compiled { path: source.to_owned(), cached: None });
    }
    let span = tracing::debug_span!("coreml.compile", source = %source.display());
    let _entered = span.enter();
    let root = options.cache.clone().or_else(ModelCache::default_root);
    let root = root.ok_or_else(|| NativeError::Path { path: "$HOME/Library/Caches".into() })?;
    let cache = ModelCache::new(root);
    if let Err(error) = cache.sweep() {
        tracing::debug!(%error, "remains of dead processes stay in the cache");
    }
    let key = CacheKey::of(source, &os_version())?;
    match cache.slot(&key)? {
        Slot::Ready(path) => Ok(Compiled { path, cached: Some((cache, key)) }),
        Slot::Vacant(reservation) => {
            tracing::info!(source = %source.display(), "compiling for Core ML");
            let path = reservation.publish(&compile(source)?)?;
            Ok(Compiled { path, cached: None })
        }
    }
}

/// Compiles into a temporary folder chosen by the framework. Uses the blocking call deliberately: waiting for the
/// asynchronous one would deadlock if its handler were queued behind this thread.
#[expect(deprecated, reason = "see above")]
fn compile(source: &Path) -> Result<PathBuf, NativeError> {
    autoreleasepool(|_| {
        let source_url = url(source)?;
        let doing = || format!("compiling {}", source.display());
        // SAFETY: rule 1, the URL of a file; the method keeps no reference.
        let compiled = unsafe { MLModel::compileModelAtURL_error(&source_url) }.map_err(|e| failure(doing(), &e))?;
        compiled.to_file_path().ok_or_else(|| NativeError::Path { path: source.to_owned() })
    })
}
