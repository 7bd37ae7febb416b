//! Errors of the library.

use std::path::PathBuf;

/// What went wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model file can't be opened.
    #[error(transparent)]
    Load(#[from] coreml_format::model::LoadError),
    /// A model that can't become a program, such as one of a type that can't be run.
    #[error("{path}: {source}")]
    Lower {
        /// The model.
        path: PathBuf,
        /// What stands against it.
        source: coreml_lower::LowerError,
    },
    /// The portable engine can't load or run a model.
    #[error("{path}: {}", with_causes(source.as_ref()))]
    Engine {
        /// The model.
        path: PathBuf,
        /// What the engine says.
        source: Box<mil_engine::error::EngineError>,
    },
    /// The native engine can't load or run a model.
    #[error("{path}: {source}")]
    Native {
        /// The model.
        path: PathBuf,
        /// What the engine says.
        source: Box<coreml_apple::NativeError>,
    },
    /// A state of one engine was given to a model of the other.
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
        /// What the model declares.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An output is not what the model's description says.
    #[error("output `{name}`: expected {expected}, found {found}")]
    Output {
        /// The output.
        name: String,
        /// What the description says.
        expected: String,
        /// What the program computed.
        found: String,
    },
    /// Something that was asked for by name is not in the model.
    #[error("{what} `{name}` is not in {path}; there are: {available}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What there is.
        available: String,
    },
    /// A request that this platform or build can't meet.
    #[error("{0}")]
    Unavailable(String),
    /// Every backend that was asked for has failed.
    #[error("no backend could run the model: {}", history.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoBackend {
        /// Each of them, and why.
        history: Vec<crate::backend::Fallback>,
    },
    /// Files of a multi-component model are missing or do not fit together.
    #[error("{path}: {message}")]
    Components {
        /// The folder or file.
        path: PathBuf,
        /// What is missing, or which two sides disagree on what.
        message: String,
    },
    /// A prompt or a request that the model can't serve.
    #[error("{0}")]
    Request(String),
    /// A prompt that is longer than the model's context.
    #[error("the prompt has {tokens} tokens; the context holds {context}")]
    Context {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// A prompt with more bytes than any text that fits the model's context.
    #[error("the prompt has {bytes} bytes; a context of {context} tokens holds at most {most}")]
    PromptBytes {
        /// Bytes of the prompt.
        bytes: usize,
        /// Most bytes that fit.
        most: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// More requests wait for a model than may.
    #[error("{limit} requests wait already")]
    Busy {
        /// How many may wait.
        limit: usize,
    },
    /// The thread that computed has ended before its result.
    #[error("the computation ended without a result: {0}")]
    Aborted(String),
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A configuration, tokenizer or template file is malformed.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A chat template can't be read or does not render a conversation.
    #[error("{path}: {source}")]
    Template {
        /// The file that it is in.
        path: PathBuf,
        /// Where in the template, and why.
        source: crate::generation::TemplateError,
    },
    /// A model can't be had from the hub or the cache.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// A cache can't be read or cleaned.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
    /// A remote model gave no answer.
    #[cfg(feature = "remote")]
    #[error(transparent)]
    Remote(#[from] crate::backend::remote::RemoteError),
    /// Candle refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<coreml_format::file::FileError> for Error {
    fn from(e: coreml_format::file::FileError) -> Self {
        Self::Io { path: e.path, source: e.cause.into() }
    }
}

/// An error and its causes in one line. The engine says where, its cause says what; a message needs both, also
/// when Candle has wrapped it and keeps the text alone.
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
