//! Errors of conversions.

use std::path::{Path, PathBuf};

use coreml_format::task::Cancelled;

/// Reason why a checkpoint can't be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file or a tensor is not as needed.
    #[error("{path}: {place}: expected {expected}, found {found}", path = path.display())]
    Invalid {
        /// File or folder.
        path: PathBuf,
        /// Tensor, key or option.
        place: String,
        /// Expected content.
        expected: String,
        /// Actual content.
        found: String,
    },
    /// Reading or writing failed, or the [task](coreml_format::task) was cancelled: kind `cancelled`.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// System error.
        source: std::io::Error,
    },
    /// A program can't be built.
    #[error(transparent)]
    Build(#[from] coreml_write::builder::BuildError),
}

/// Result of a conversion.
pub type Result<T> = std::result::Result<T, ConvertError>;

impl ConvertError {
    /// Stable name of the error kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid",
            Self::Io { source, .. } => Cancelled::kind(source),
            Self::Build(e) => e.kind(),
        }
    }

    pub(crate) fn invalid(
        path: &Path,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (place, expected, found) = (place.into(), expected.into(), found.into());
        Self::Invalid { path: path.to_owned(), place, expected, found }
    }

    pub(crate) fn cancelled(what: impl Into<PathBuf>) -> Self {
        Self::Io { path: what.into(), source: Cancelled.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
