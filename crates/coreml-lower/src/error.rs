//! Errors of lowering a model to a program.

use coreml_format::verify::VerifyError;

/// Reason why a model cannot be lowered to a program. Match on [`kind`](Self::kind).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// A model type without a lowering, alone or in a pipeline.
    #[error("{place} is a {model_type}, which can't be run: {reason}")]
    Unsupported {
        /// The model, or the part of a pipeline.
        place: String,
        /// Name of the type, such as `treeEnsembleRegressor`.
        model_type: &'static str,
        /// What is not in the file, and what to do.
        reason: String,
    },
    /// The model is incomplete or inconsistent.
    #[error("{place}: expected {expected}, found {found}")]
    Invalid {
        /// Location in the model.
        place: String,
        /// Expected content.
        expected: String,
        /// Actual content.
        found: String,
    },
    /// A layer, an input or an output of a network that can't be run.
    #[error("{place}: layer `{name}` ({kind}) can't be run: {reason}")]
    Layer {
        /// The model, or which part of a pipeline.
        place: String,
        /// Name of the layer.
        name: String,
        /// Its kind, such as `convolution`.
        kind: &'static str,
        /// What about it.
        reason: String,
    },
    /// The lowered program is inconsistent.
    #[error(transparent)]
    Program(#[from] VerifyError),
}

/// Kinds of [`LowerError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LowerErrorKind {
    /// [`LowerError::Unsupported`].
    Unsupported,
    /// [`LowerError::Invalid`].
    Invalid,
    /// [`LowerError::Layer`].
    Layer,
    /// [`LowerError::Program`].
    Program,
}

impl LowerError {
    /// The kind of error.
    pub fn kind(&self) -> LowerErrorKind {
        match self {
            Self::Unsupported { .. } => LowerErrorKind::Unsupported,
            Self::Invalid { .. } => LowerErrorKind::Invalid,
            Self::Layer { .. } => LowerErrorKind::Layer,
            Self::Program(_) => LowerErrorKind::Program,
        }
    }

    pub(crate) fn invalid(
        place: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Invalid { place: place.into(), expected: expected.to_string(), found: found.to_string() }
    }
}
