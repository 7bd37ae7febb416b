//! Fields of errors that other languages and formats show: names of kinds, file, feature, expected, found.

use std::path::Path;

use coreml_engine::error::{EngineError, OpLocation};
use coreml_format::model::LoadError;

use super::{Error, ErrorKind};

impl ErrorKind {
    /// Stable name, such as `prompt-too-long`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Unsupported => "unsupported",
            Self::Engine => "engine",
            Self::Input => "input",
            Self::Argument => "argument",
            Self::NotFound => "not-found",
            Self::EmptyPrompt => "empty-prompt",
            Self::UnknownToken => "unknown-token",
            Self::PromptTooLong => "prompt-too-long",
            Self::NoChatTemplate => "no-chat-template",
            Self::Template => "template",
            Self::Cancelled => "cancelled",
            Self::Allocation => "allocation",
            Self::Busy => "busy",
            Self::Aborted => "aborted",
            Self::Unavailable => "unavailable",
            Self::NoBackend => "no-backend",
            Self::Io => "io",
            Self::Hub => "hub",
            Self::Cache => "cache",
            Self::Remote => "remote",
            Self::Candle => "candle",
        }
    }
}

impl Error {
    /// File or folder that the error is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Load(
                LoadError::Io { path, .. }
                | LoadError::NotAModel { path, .. }
                | LoadError::Spec { path, .. }
                | LoadError::Text { path, .. }
                | LoadError::Program { path, .. }
                | LoadError::Link { path, .. },
            ) => Some(path),
            Self::Lower { path, .. }
            | Self::Engine { path, .. }
            | Self::Native { path, .. }
            | Self::NotFound { path, .. }
            | Self::Components { path, .. }
            | Self::Io { path, .. }
            | Self::File { path, .. } => Some(path),
            #[cfg(feature = "language")]
            Self::Template { path, .. } => Some(path),
            Self::Unread { native, .. } => native.path(),
            Self::Row { source, .. } => source.path(),
            _ => None,
        }
    }

    /// Input, output or state that the error is about, or the name that is not in the model.
    pub fn feature(&self) -> Option<&str> {
        match self {
            Self::Input { name, .. }
            | Self::Output { name, .. }
            | Self::State { name, .. }
            | Self::NotFound { name, .. }
            | Self::UnknownName { name, .. } => Some(name),
            Self::Engine { source, .. } => match source.as_ref() {
                EngineError::MissingInput { name, .. }
                | EngineError::BadInput { name, .. }
                | EngineError::BadState { name, .. }
                | EngineError::BadOutput { name, .. } => Some(name),
                _ => None,
            },
            Self::Row { source, .. } => source.feature(),
            _ => None,
        }
    }

    /// Operation that failed, by its place in the program.
    pub fn operation(&self) -> Option<&OpLocation> {
        match self {
            Self::Engine { source, .. } => match source.as_ref() {
                EngineError::Op { place, .. } | EngineError::Undefined { place, .. } => Some(place),
                _ => None,
            },
            Self::Row { source, .. } => source.operation(),
            _ => None,
        }
    }

    /// What was expected, and what was found where that is more than nothing.
    pub fn expected_and_found(&self) -> Option<(String, Option<String>)> {
        let both = |expected: &String, found: &String| Some((expected.clone(), Some(found.clone())));
        match self {
            Self::Input { expected, found, .. } | Self::Output { expected, found, .. } => both(expected, found),
            Self::StateEngine { expected, found } => Some(((*expected).to_owned(), Some((*found).to_owned()))),
            Self::NotFound { available, .. } => Some((available.clone(), None)),
            Self::UnknownName { expected, name, .. } => both(expected, name),
            Self::Load(LoadError::NotAModel { expected, found, .. } | LoadError::Link { expected, found, .. }) => {
                both(expected, found)
            }
            Self::Engine { source, .. } => match source.as_ref() {
                EngineError::MissingInput { expected, .. } => Some((expected.join(", "), None)),
                EngineError::BadInput { expected, found, .. } | EngineError::BadState { expected, found, .. } => {
                    both(expected, found)
                }
                _ => None,
            },
            Self::Row { source, .. } => source.expected_and_found(),
            _ => None,
        }
    }

    /// Number of the row that failed, from 0, in a batch.
    pub fn row(&self) -> Option<usize> {
        match self {
            Self::Row { row, .. } => Some(*row),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_fields_of_their_causes() {
        let input = Error::Input { name: "x".into(), expected: "[2]".into(), found: "[3]".into() };
        let row = Error::Row { row: 7, source: Box::new(input) };
        assert_eq!((row.row(), row.feature(), row.path()), (Some(7), Some("x"), None));
        assert_eq!(row.expected_and_found(), Some(("[2]".to_owned(), Some("[3]".to_owned()))));
        let none = Error::NotFound { what: "input", name: "y".into(), path: "m".into(), available: "x".into() };
        assert_eq!((none.feature(), none.path()), (Some("y"), Some(Path::new("m"))));
        assert_eq!(none.expected_and_found(), Some(("x".to_owned(), None)));
        assert!(Error::EmptyPrompt.feature().is_none() && Error::EmptyPrompt.row().is_none());
    }

    #[test]
    fn operations_are_places_in_the_program() {
        let place = OpLocation { function: "main".into(), kind: "add".into(), name: "y".into() };
        let source = EngineError::Op { place, source: coreml_engine::error::OpError::shape("no") };
        let error = Error::Engine { path: "m".into(), source: Box::new(source) };
        assert_eq!(error.operation().map(|o| o.name.as_str()), Some("y"));
        assert_eq!(ErrorKind::PromptTooLong.name(), "prompt-too-long");
    }
}
