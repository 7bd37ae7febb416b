//! Errors of the builder.

use coreml_format::program::Opset;

/// Reason why a program can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An operation is wrong.
    #[error("operation `{kind}` (`{name}`): {what}")]
    Op {
        /// Type of the operation.
        kind: String,
        /// Its name.
        name: String,
        /// Expected and found.
        what: String,
    },
    /// No opset has this operation.
    #[error("operation `{kind}` (`{name}`): no opset defines it")]
    Unknown {
        /// Type of the operation.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A later opset defines the operation.
    #[error("operation `{kind}` (`{name}`): expected an operation of {opset}, found one since {since}", opset = opset.text_name(), since = since.text_name())]
    Newer {
        /// Type of the operation.
        kind: String,
        /// Its name.
        name: String,
        /// Opset of the function.
        opset: Opset,
        /// First opset that defines it.
        since: Opset,
    },
    /// A name is used twice, or is none.
    #[error("{place}: expected {expected}, found `{found}`")]
    Name {
        /// Where.
        place: &'static str,
        /// Expected content.
        expected: &'static str,
        /// The name.
        found: String,
    },
    /// The program is inconsistent.
    #[error(transparent)]
    Program(#[from] coreml_format::verify::VerifyError),
    /// A value can't be read.
    #[error(transparent)]
    Blob(#[from] coreml_format::blob::BlobError),
    /// Writing failed, or the [task](coreml_format::task) was cancelled: kind `cancelled`.
    #[error("writing {path}: {source}")]
    Io {
        /// File or folder.
        path: std::path::PathBuf,
        /// System error.
        source: std::io::Error,
    },
}

impl BuildError {
    /// Stable name of the error kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Op { .. } => "op",
            Self::Unknown { .. } => "unknown-op",
            Self::Newer { .. } => "newer-op",
            Self::Name { .. } => "name",
            Self::Program(_) => "program",
            Self::Blob(_) => "blob",
            Self::Io { source, .. } => coreml_format::task::Cancelled::kind(source),
        }
    }
}
