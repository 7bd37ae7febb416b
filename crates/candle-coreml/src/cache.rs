//! Lists and cleans the caches on this machine.
//!
//! [`CacheManager`] handles two kinds of folders: models downloaded by [`hub`](crate::hub), and the per-process caches
//! of Apple's Core ML runtime (`{process}-{hash}/com.apple.e5rt.e5bundlecache` in the user's caches). It deletes
//! nothing else: no unrecognised folder, nothing behind a symbolic link, nothing outside its roots.

use std::fs;
use std::path::Path;

mod clean;
mod entry;
mod error;
mod manager;
pub(crate) mod paths;
mod remove;
mod scan;

pub use clean::{CleanMode, CleanReport, CleanRule};
pub use entry::{CacheEntry, EntryKind};
pub use error::CacheError;
pub use manager::CacheManager;
pub use paths::{Receipt, ReceiptFile, default_root};

/// Returns true for a folder that is not a symbolic link.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}
