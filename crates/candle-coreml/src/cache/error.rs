//! Errors of cache operations.

use std::io;
use std::path::PathBuf;

/// Errors of cache operations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A folder can't be read or deleted.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An entry that must not be deleted.
    #[error("{path}: it is not deleted, because {reason}", path = path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// A malformed glob pattern.
    #[error("`{pattern}` is not a pattern: {message}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The problem.
        message: String,
    },
}

impl CacheError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Stable name of the kind of failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Refused { .. } => "refused",
            Self::Pattern { .. } => "pattern",
        }
    }
}
