//! [`Error`] says what was expected and found; [`ErrorKind`] is what programs match on.

use std::path::PathBuf;

use coreml_engine::error::{EngineError, OpError};
#[cfg(feature = "language")]
mod fallback;
mod fields;

#[cfg(feature = "language")]
pub(crate) use fallback::Fault;
#[cfg(feature = "language")]
pub use fallback::{Fallback, Stage};

/// An error with its location, expected and found. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model file can't be opened.
    #[error(transparent)]
    Load(#[from] coreml_format::model::LoadError),
    /// A model that can't be lowered to a program, such as one of an unsupported type.
    #[error("{path}: {source}")]
    Lower {
        /// The model.
        path: PathBuf,
        /// The cause.
        source: coreml_lower::LowerError,
    },
    /// The portable engine can't load or run a model.
    #[error("{path}: {}", with_causes(source.as_ref()))]
    Engine {
        /// The model.
        path: PathBuf,
        /// The engine's error.
        source: Box<coreml_engine::error::EngineError>,
    },
    /// The native engine can't load or run a model.
    #[error("{path}: {source}")]
    Native {
        /// The model.
        path: PathBuf,
        /// The engine's error.
        source: Box<coreml_framework::NativeError>,
    },
    /// A model that neither Core ML nor this library can read.
    #[error("{native}; this library can't read it either: {ours}")]
    Unread {
        /// Core ML's error.
        native: Box<Error>,
        /// This library's.
        ours: Box<coreml_format::model::LoadError>,
    },
    /// A state was passed to a model on another engine.
    #[error("the model runs on the {expected} engine, but the state was made by the {found} engine")]
    StateEngine {
        /// Engine of the model.
        expected: &'static str,
        /// Engine of the state.
        found: &'static str,
    },
    /// An input does not fit the model.
    #[error("input `{name}`: expected {expected}, found {found}")]
    Input {
        /// The input.
        name: String,
        /// The declaration of the model.
        expected: String,
        /// The value passed.
        found: String,
    },
    /// An output does not match the model's description.
    #[error("output `{name}`: expected {expected}, found {found}")]
    Output {
        /// The output.
        name: String,
        /// The description.
        expected: String,
        /// The value computed.
        found: String,
    },
    /// A row of a batch can't be predicted.
    #[error("row {row}: {source}")]
    Row {
        /// Its number, from 0.
        row: usize,
        /// The cause.
        source: Box<Error>,
    },
    /// A requested name is not in the model.
    #[error("{what} `{name}` is not in {path}; available: {available}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// The name.
        name: String,
        /// The model or file searched.
        path: PathBuf,
        /// The available names.
        available: String,
    },
    /// A request that this platform or build doesn't support.
    #[error("{0}")]
    Unavailable(String),
    /// Every requested backend has failed.
    #[cfg(feature = "language")]
    #[error("{}", fallback::why_none(history))]
    NoBackend {
        /// The backends and their errors.
        history: Vec<Fallback>,
    },
    /// Files of a multi-component model are missing or do not fit together.
    #[error("{path}: {message}")]
    Components {
        /// The folder or file.
        path: PathBuf,
        /// The missing part, or the mismatch.
        message: String,
    },
    /// A model in another form than the device runs: a checkpoint for Core ML, packages for Candle.
    #[error("{path}: {message}")]
    OtherForm {
        /// The folder or file.
        path: PathBuf,
        /// What it is.
        message: String,
    },
    /// An argument or a setting outside the accepted range.
    #[error("{0}")]
    Request(String),
    /// A name that is not one of a fixed set.
    #[error("{what} `{name}`: expected one of {expected}")]
    UnknownName {
        /// Kind of thing.
        what: &'static str,
        /// The name.
        name: String,
        /// The valid names.
        expected: String,
    },
    /// A prompt without tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A conversation without messages.
    #[error("no messages to answer")]
    NoMessages,
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    UnknownToken {
        /// The id.
        id: i64,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A prompt, including the cached prefix, that exceeds the model's context.
    #[error("the prompt has {tokens} tokens, more than the context of {context} holds")]
    PromptTooLong {
        /// Number of tokens of the prompt.
        tokens: usize,
        /// Context length in tokens.
        context: usize,
    },
    /// A prompt with more bytes than any text that fits the model's context.
    #[error("the prompt has {bytes} bytes; a context of {context} tokens holds at most {most}")]
    PromptBytes {
        /// Size of the prompt in bytes.
        bytes: usize,
        /// Maximum size in bytes.
        most: usize,
        /// Context length in tokens.
        context: usize,
    },
    /// A text with more bytes than the tokenizer accepts.
    #[error("the tokenizer takes texts of at most {most} bytes, found {bytes}")]
    TextTooLong {
        /// Size of the text in bytes.
        bytes: usize,
        /// Maximum size in bytes.
        most: usize,
    },
    /// A chat request to a model without a chat template.
    #[error("the model has no chat template; generate without one")]
    NoChatTemplate,
    /// The computation was cancelled before it had a result.
    #[error("the computation was cancelled")]
    Cancelled,
    /// A failed allocation.
    #[error("{what} can't be allocated: {}", with_causes(source.as_ref()))]
    Allocation {
        /// Purpose of the memory.
        what: &'static str,
        /// The exceeded limit or the failure.
        source: Box<OpError>,
    },
    /// A missing buffer of a state, or a value that does not fit it.
    #[error("state `{name}`: {message}")]
    State {
        /// The state.
        name: String,
        /// The problem.
        message: String,
    },
    /// The queue of a model is full.
    #[error("{limit} requests wait already")]
    Busy {
        /// Length of the queue.
        limit: usize,
    },
    /// The computing thread ended without a result.
    #[error("the computation ended without a result: {0}")]
    Aborted(String),
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A configuration, tokenizer or template file is malformed.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// A chat template can't be parsed or rendered.
    #[cfg(feature = "language")]
    #[error("{path}: {source}")]
    Template {
        /// The file that contains it.
        path: PathBuf,
        /// Position in the template, and the reason.
        source: crate::generation::TemplateError,
    },
    /// A model can't be obtained from the hub or the cache.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// A cache can't be read or cleaned.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
    /// A request to a remote model failed.
    #[cfg(feature = "remote")]
    #[error(transparent)]
    Remote(#[from] crate::remote::RemoteError),
    /// A model can't be built.
    #[error(transparent)]
    Build(#[from] coreml_write::builder::BuildError),
    /// A model can't be edited.
    #[error(transparent)]
    Edit(#[from] coreml_write::edit::EditError),
    /// A Candle operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Category of an [`Error`]. Later versions keep these and may add others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Files of a model are missing, malformed or don't fit together.
    Model,
    /// The model needs an operation or a feature that the engine lacks.
    Unsupported,
    /// An engine failed to load or run a model.
    Engine,
    /// An input or a state does not match the model's declaration.
    Input,
    /// An argument or a setting is outside the accepted range.
    Argument,
    /// An unknown name.
    NotFound,
    /// The prompt has no tokens or no messages.
    EmptyPrompt,
    /// A token id is outside the vocabulary.
    UnknownToken,
    /// The prompt does not fit the model's context or the tokenizer.
    PromptTooLong,
    /// The model has no chat template.
    NoChatTemplate,
    /// The chat template rejects the conversation.
    Template,
    /// The computation was cancelled.
    Cancelled,
    /// An allocation failed or exceeds a limit.
    Allocation,
    /// The queue is full; try again later.
    Busy,
    /// The computing thread ended without a result.
    Aborted,
    /// This platform or build doesn't support the request.
    Unavailable,
    /// Every backend failed.
    NoBackend,
    /// A file can't be read or written.
    Io,
    /// The hub or the network failed.
    Hub,
    /// A cache can't be read or cleaned.
    Cache,
    /// A remote model failed.
    Remote,
    /// A Candle operation failed.
    Candle,
}

impl ErrorKind {
    /// Returns true if the request is at fault: it fails the same way on every backend.
    pub fn is_request(self) -> bool {
        use ErrorKind::*;
        matches!(self, Argument | EmptyPrompt | UnknownToken | PromptTooLong | NoChatTemplate | Cancelled)
    }
}

impl Error {
    /// The kind of error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Load(e) => match e.kind() {
                "io" => ErrorKind::Io,
                _ => ErrorKind::Model,
            },
            Self::Lower { source, .. } => match source.kind() {
                coreml_lower::LowerErrorKind::Unsupported => ErrorKind::Unsupported,
                _ => ErrorKind::Model,
            },
            Self::Engine { source, .. } => engine_kind(source),
            Self::Native { source, .. } => match source.kind() {
                "unavailable" => ErrorKind::Unavailable,
                _ => ErrorKind::Engine,
            },
            Self::Unread { native, .. } => native.kind(),
            Self::StateEngine { .. } | Self::Input { .. } | Self::State { .. } => ErrorKind::Input,
            Self::Request(_) | Self::UnknownName { .. } => ErrorKind::Argument,
            Self::Row { source, .. } => source.kind(),
            Self::Output { .. } => ErrorKind::Engine,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            #[cfg(feature = "language")]
            Self::NoBackend { .. } => ErrorKind::NoBackend,
            Self::Components { .. } | Self::OtherForm { .. } | Self::File { .. } => ErrorKind::Model,
            Self::EmptyPrompt | Self::NoMessages => ErrorKind::EmptyPrompt,
            Self::UnknownToken { .. } => ErrorKind::UnknownToken,
            Self::PromptTooLong { .. } | Self::PromptBytes { .. } | Self::TextTooLong { .. } => {
                ErrorKind::PromptTooLong
            }
            Self::NoChatTemplate => ErrorKind::NoChatTemplate,
            #[cfg(feature = "language")]
            Self::Template { .. } => ErrorKind::Template,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Allocation { .. } => ErrorKind::Allocation,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Aborted(_) => ErrorKind::Aborted,
            Self::Io { .. } => ErrorKind::Io,
            #[cfg(feature = "hub")]
            Self::Hub(crate::hub::HubError::Stopped(_)) => ErrorKind::Cancelled,
            #[cfg(feature = "hub")]
            Self::Hub(_) => ErrorKind::Hub,
            Self::Cache(_) => ErrorKind::Cache,
            #[cfg(feature = "remote")]
            Self::Remote(_) => ErrorKind::Remote,
            Self::Build(e) => match e.kind() {
                "io" => ErrorKind::Io,
                "cancelled" => ErrorKind::Cancelled,
                _ => ErrorKind::Argument,
            },
            Self::Edit(e) => match e.kind() {
                "io" => ErrorKind::Io,
                "cancelled" => ErrorKind::Cancelled,
                _ => ErrorKind::Model,
            },
            Self::Candle(_) => ErrorKind::Candle,
        }
    }

    pub(crate) fn unknown_token(id: impl Into<i64>, vocab: usize) -> Self {
        Self::UnknownToken { id: id.into(), vocab }
    }
}

fn engine_kind(error: &EngineError) -> ErrorKind {
    match error.kind() {
        "unsupported" => ErrorKind::Unsupported,
        "unknown-function" => ErrorKind::NotFound,
        "input" | "state" => ErrorKind::Input,
        "memory" => ErrorKind::Allocation,
        "cancelled" => ErrorKind::Cancelled,
        _ => ErrorKind::Engine,
    }
}

impl From<coreml_format::file::FileError> for Error {
    fn from(e: coreml_format::file::FileError) -> Self {
        Self::Io { path: e.path, source: e.cause.into() }
    }
}

/// An error and its causes on one line, since engine errors give the location and their causes the reason, and Candle
/// keeps only the text of an error it wraps.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Results of the library.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Candle(e) => e,
            other => candle_core::Error::wrap(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use coreml_engine::error::OpLocation;

    use super::*;

    #[test]
    fn kinds_say_what_a_program_can_do() {
        let op = |source| {
            let place = OpLocation { function: "main".into(), kind: "add".into(), name: "y".into() };
            Error::Engine { path: "m".into(), source: Box::new(EngineError::Op { place, source }) }
        };
        for (error, kind, request) in [
            (Error::EmptyPrompt, ErrorKind::EmptyPrompt, true),
            (Error::NoMessages, ErrorKind::EmptyPrompt, true),
            (Error::unknown_token(-1, 4), ErrorKind::UnknownToken, true),
            (Error::PromptTooLong { tokens: 9, context: 8 }, ErrorKind::PromptTooLong, true),
            (Error::NoChatTemplate, ErrorKind::NoChatTemplate, true),
            #[cfg(feature = "language")]
            (Error::NoBackend { history: Vec::new() }, ErrorKind::NoBackend, false),
            (op(OpError::Cancelled), ErrorKind::Cancelled, true),
            (op(OpError::OutOfMemory { bytes: 1 }), ErrorKind::Allocation, false),
            (op(OpError::Unsupported("x".into())), ErrorKind::Unsupported, false),
            (op(OpError::shape("x")), ErrorKind::Engine, false),
        ] {
            assert_eq!((error.kind(), error.kind().is_request()), (kind, request), "{error}");
        }
    }
}
