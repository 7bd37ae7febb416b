//! Why a model can't become a program.

use coreml_format::verify::VerifyError;

use crate::model_types;

/// Why a model can't become a program. Match on [`kind`](Self::kind).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// A model of a type that has no lowering, alone or as a part of a pipeline.
    #[error("{place} is a {model_type}, which can't be run; models of type {} can", model_types::supported())]
    Unsupported {
        /// The model, or which part of a pipeline.
        place: String,
        /// Name of the type, such as `treeEnsembleRegressor`.
        model_type: &'static str,
    },
    /// The model lacks something, or contradicts itself.
    #[error("{place}: expected {expected}, found {found}")]
    Invalid {
        /// Where in the model.
        place: String,
        /// What should be there.
        expected: String,
        /// What is there.
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
    /// The program that was made contradicts itself.
    #[error(transparent)]
    Program(#[from] VerifyError),
}

/// The kinds of [`LowerError`].
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
