//! An open model and its load errors.
//!
//! [`package`](crate::package) opens files, including compiled models.

use std::path::PathBuf;

use crate::description::ModelDescription;
use crate::file::FileError;
use crate::mil_text::TextError;
use crate::model_types::Body;
use crate::spec::{SpecError, Specification};
use crate::verify::VerifyError;
use crate::weights::Weights;

/// Reason why a model cannot be opened. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// File path.
        path: PathBuf,
        /// System error.
        source: std::io::Error,
    },
    /// The path exists but is not a model.
    #[error("{path} is not a Core ML model: expected {expected}, found {found}")]
    NotAModel {
        /// Path.
        path: PathBuf,
        /// Expected content.
        expected: String,
        /// Actual content.
        found: String,
    },
    /// The specification is invalid.
    #[error("{path}: {source}")]
    Spec {
        /// Specification file.
        path: PathBuf,
        /// Cause.
        source: SpecError,
    },
    /// The text of a compiled model is invalid.
    #[error("{path}: {source}")]
    Text {
        /// The `model.mil`.
        path: PathBuf,
        /// Cause and position.
        source: TextError,
    },
    /// The program is inconsistent.
    #[error("{path}: {source}")]
    Program {
        /// Model path.
        path: PathBuf,
        /// Cause and position.
        source: VerifyError,
    },
    /// A linked model can't be found or does not fit.
    #[error("{path}: the linked model `{name}`: expected {expected}, found {found}")]
    Link {
        /// The model with the link.
        path: PathBuf,
        /// File name of the linked model.
        name: String,
        /// Expected content.
        expected: String,
        /// Actual content.
        found: String,
    },
}

impl LoadError {
    /// Stable name of the error kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::NotAModel { .. } => "not-a-model",
            Self::Spec { .. } => "specification",
            Self::Text { .. } => "text",
            Self::Program { .. } => "program",
            Self::Link { .. } => "link",
        }
    }
}

/// An open model: description, body and mapped weights.
#[derive(Debug, Clone)]
pub struct Model {
    /// Path it was opened from.
    pub path: PathBuf,
    /// Inputs and outputs.
    pub description: ModelDescription,
    /// Content, depending on the model type.
    pub body: Body,
    /// Models of a pipeline, in order; empty for other types.
    pub parts: Vec<Specification>,
    /// Weights.
    pub weights: Weights,
}

impl From<FileError> for LoadError {
    fn from(e: FileError) -> Self {
        LoadError::Io { path: e.path, source: e.cause.into() }
    }
}
