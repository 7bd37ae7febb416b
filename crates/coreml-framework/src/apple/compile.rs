//! Compiles sources once per source and system version.

use std::path::{Path, PathBuf};

use objc2::rc::autoreleasepool;
use objc2_core_ml::MLModel;

use super::exception::guarded;
use super::foundation::{failure, system, url};
use crate::cache::{CacheKey, ModelCache, Slot, is_compiled};
use crate::error::NativeError;
use crate::options::Options;
use crate::progress::LoadStage;
use crate::stdout;

/// Returns the path of the compiled model, from the cache or newly compiled. Blocks: hashing reads every file of the
/// source, and the first compilation of a large model takes minutes.
///
/// # Errors
/// If the source cannot be read or compiled, the cache cannot be written, or the load is cancelled.
pub(super) fn compiled(source: &Path, options: &Options) -> Result<PathBuf, NativeError> {
    if is_compiled(source) {
        return Ok(source.to_owned());
    }
    let span = tracing::debug_span!("coreml.compile", source = %source.display());
    let _entered = span.enter();
    let watch = &options.watch;
    let root = options.cache.clone().or_else(ModelCache::default_root);
    let root = root.ok_or_else(|| NativeError::Path { path: "$HOME/Library/Caches".into() })?;
    let cache = ModelCache::new(root);
    if let Err(error) = cache.sweep() {
        tracing::debug!(%error, "remains of dead processes stay in the cache");
    }
    watch.begin(LoadStage::Hashing)?;
    let key = CacheKey::remembered(source, &system())?;
    watch.begin(LoadStage::Waiting)?;
    match cache.slot_while(&key, &|| !watch.is_cancelled())? {
        Slot::Ready(path) => Ok(path),
        Slot::Vacant(reservation) => {
            watch.begin(LoadStage::Copying)?;
            let (plain, copied) = reservation.plain_source(source)?;
            tracing::info!(source = %source.display(), copied, "compiling for Core ML");
            watch.begin(LoadStage::Compiling)?;
            let path = reservation.publish(&compile(&plain)?, &system())?;
            match cache.retire(&system()) {
                Ok(removed) => tracing::debug!(removed, "models and records of other systems"),
                Err(error) => tracing::debug!(%error, "models of other systems stay in the cache"),
            }
            Ok(path)
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
        let compiled = stdout::guarded(|| guarded(doing, || unsafe { MLModel::compileModelAtURL_error(&source_url) }))?;
        let compiled = compiled.map_err(|e| failure(doing(), &e))?;
        compiled.to_file_path().ok_or_else(|| NativeError::Path { path: source.to_owned() })
    })
}
