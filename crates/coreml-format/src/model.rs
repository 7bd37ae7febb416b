//! An open model, and the reasons why one can't be opened.
//!
//! [`package`](crate::package) opens files; compiled models are one kind of them.

use std::path::PathBuf;

use crate::description::ModelDescription;
use crate::file::FileError;
use crate::mil_text::TextError;
use crate::model_types::Body;
use crate::spec::{SpecError, Specification};
use crate::verify::VerifyError;
use crate::weights::Weights;

/// Why a model can't be opened. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The path is there, but is not a model.
    #[error("{path} is not a Core ML model: expected {expected}, found {found}")]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What a model has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The specification can't be used.
    #[error("{path}: {source}")]
    Spec {
        /// The specification file.
        path: PathBuf,
        /// What is wrong with it.
        source: SpecError,
    },
    /// The text of a compiled model can't be used.
    #[error("{path}: {source}")]
    Text {
        /// The `model.mil`.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: TextError,
    },
    /// The program contradicts itself.
    #[error("{path}: {source}")]
    Program {
        /// The model.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: VerifyError,
    },
}

impl LoadError {
    /// Stable name of the kind of error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::NotAModel { .. } => "not-a-model",
            Self::Spec { .. } => "specification",
            Self::Text { .. } => "text",
            Self::Program { .. } => "program",
        }
    }
}

/// A model that is open: description, body and mapped weights.
#[derive(Debug, Clone)]
pub struct Model {
    /// Where it was opened.
    pub path: PathBuf,
    /// What it expects and returns.
    pub description: ModelDescription,
    /// The model itself, of any type.
    pub body: Body,
    /// The models of a pipeline, in order; of other types none.
    pub parts: Vec<Specification>,
    /// Its weights.
    pub weights: Weights,
}

impl From<FileError> for LoadError {
    fn from(e: FileError) -> Self {
        LoadError::Io { path: e.path, source: e.cause.into() }
    }
}
