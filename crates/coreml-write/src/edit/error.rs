//! Errors of editing.

use std::path::{Path, PathBuf};

use coreml_format::task::Cancelled;

/// Reason why a model can't be edited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The model can't be opened.
    #[error(transparent)]
    Open(#[from] coreml_format::model::LoadError),
    /// The model can't be built.
    #[error(transparent)]
    Build(#[from] crate::builder::BuildError),
    /// A weight can't be read.
    #[error(transparent)]
    Blob(#[from] coreml_format::blob::BlobError),
    /// Something in the model is not as needed.
    #[error("{path}: {place}: expected {expected}, found {found}", path = path.display())]
    Invalid {
        /// Model or file.
        path: PathBuf,
        /// Function, operation, weight or file.
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
    /// The edited program is inconsistent.
    #[error(transparent)]
    Program(#[from] coreml_format::verify::VerifyError),
}

impl EditError {
    /// Stable name of the error kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open(e) => e.kind(),
            Self::Build(e) => e.kind(),
            Self::Blob(_) => "blob",
            Self::Invalid { .. } => "invalid",
            Self::Io { source, .. } => Cancelled::kind(source),
            Self::Program(_) => "program",
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

    /// The work on a model was cancelled.
    pub fn cancelled(path: &Path) -> Self {
        Self::Io { path: path.to_owned(), source: Cancelled.into() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Result of an edit.
pub type Result<T> = std::result::Result<T, EditError>;
