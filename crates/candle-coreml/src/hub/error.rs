//! What can go wrong between the hub and the cache.

use std::path::PathBuf;

/// Why a model could not be had. [`kind`](Self::kind) is stable for programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not an identifier of a model.
    #[error("`{id}` is not a model's name: expected org/name or org/name@revision; {reason}")]
    Id {
        /// What was given.
        id: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// No network is allowed, and the cache does not have the model.
    #[error("{id} is not in the cache {cache}, and offline mode (HF_HUB_OFFLINE) forbids to download it")]
    Offline {
        /// The model.
        id: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub wants a token, or another one.
    #[error("{what}: the hub refuses access (HTTP {status}): {advice}")]
    Denied {
        /// Model or file.
        what: String,
        /// 401 or 403.
        status: u16,
        /// What to do.
        advice: String,
    },
    /// The hub has no such model, revision or file.
    #[error("{what}: not found at {url}")]
    NotFound {
        /// Model or file.
        what: String,
        /// Where it was asked for.
        url: String,
    },
    /// The network or the server failed, also after the retries.
    #[error("{what}: gave up after {attempts} attempts: {cause}")]
    Network {
        /// Model or file.
        what: String,
        /// How often it was tried without progress.
        attempts: u32,
        /// The last failure.
        cause: String,
    },
    /// The server answered in a way that repeating does not change.
    #[error("{what}: {message}")]
    Answer {
        /// Model or file.
        what: String,
        /// What was expected and found.
        message: String,
    },
    /// A file name in a listing or archive that could leave the cache.
    #[error("{what}: the file name {name:?} is refused: {reason}")]
    Name {
        /// Model or archive.
        what: String,
        /// The name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The content is not what the hub announced, twice.
    #[error("{file}: the downloaded content has the wrong checksum, twice: expected {expected}, found {found}")]
    Checksum {
        /// The file.
        file: String,
        /// What the listing says.
        expected: String,
        /// What was received.
        found: String,
    },
    /// The disk is too full.
    #[error("{path}: {needed} bytes are needed, but {available} bytes are free", path = path.display())]
    Space {
        /// The cache.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes that the file system offers.
        available: u64,
    },
    /// A zip archive that can't be unpacked safely.
    #[error("{path}: {message}", path = path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file of the cache can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Settings that make no sense, or that this machine can't meet.
    #[error("{0}")]
    Settings(String),
    /// Another file failed, or the caller stopped the download.
    #[error("{0}: the download was stopped")]
    Stopped(String),
}

impl HubError {
    /// A word for the kind of failure that later versions keep.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Id { .. } => "id",
            Self::Offline { .. } => "offline",
            Self::Denied { .. } => "denied",
            Self::NotFound { .. } => "not-found",
            Self::Network { .. } => "network",
            Self::Answer { .. } => "answer",
            Self::Name { .. } => "name",
            Self::Checksum { .. } => "checksum",
            Self::Space { .. } => "space",
            Self::Archive { .. } => "archive",
            Self::Io { .. } => "io",
            Self::Settings(_) => "settings",
            Self::Stopped(_) => "stopped",
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
