//! Errors of the hub and its cache.

use std::path::PathBuf;

/// Error of obtaining a model. [`kind`](Self::kind) is stable for programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not a model identifier.
    #[error("`{id}`: hub names are org/name or org/name@revision; {reason}")]
    Id {
        /// The given text.
        id: String,
        /// The broken rule.
        reason: &'static str,
    },
    /// Offline mode is on, and the model is not cached.
    #[error("{id} is not in the cache {cache}, and offline mode (HF_HUB_OFFLINE) forbids downloading it")]
    Offline {
        /// The model.
        id: String,
        /// The cache searched.
        cache: PathBuf,
    },
    /// The hub requires a token, or a different one.
    #[error("{what}: the hub refuses access (HTTP {status}): {advice}")]
    Denied {
        /// Model or file.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Advice to the user.
        advice: String,
    },
    /// The hub has no such model, revision or file.
    #[error("{what}: not found at {url}")]
    NotFound {
        /// Model or file.
        what: String,
        /// URL of the request.
        url: String,
    },
    /// The network or the server failed, even after retries.
    #[error("{what}: gave up after {attempts} attempts: {cause}")]
    Network {
        /// Model or file.
        what: String,
        /// Number of attempts without progress.
        attempts: u32,
        /// The last failure.
        cause: String,
    },
    /// The server's response is an error that retrying does not fix.
    #[error("{what}: {message}")]
    Answer {
        /// Model or file.
        what: String,
        /// Expected and found.
        message: String,
    },
    /// A file name in a listing or archive that could escape the cache.
    #[error("{what}: the file name {name:?} is refused: {reason}")]
    Name {
        /// Model or archive.
        what: String,
        /// The name.
        name: String,
        /// The reason.
        reason: &'static str,
    },
    /// The content had the wrong checksum, twice.
    #[error("{file}: the downloaded content has the wrong checksum, twice: expected {expected}, found {found}")]
    Checksum {
        /// The file.
        file: String,
        /// Checksum in the listing.
        expected: String,
        /// Checksum of the received content.
        found: String,
    },
    /// The caller did not consent to a download; see [`Hub::consent`](super::Hub::consent).
    #[error("{id} is not downloaded: {bytes} bytes, and nobody agreed")]
    Declined {
        /// The model.
        id: String,
        /// Bytes to download.
        bytes: u64,
    },
    /// The disk is too full.
    #[error("{path}: {needed} bytes are needed, but {available} bytes are free", path = path.display())]
    Space {
        /// The cache.
        path: PathBuf,
        /// Remaining bytes to write.
        needed: u64,
        /// Free bytes of the file system.
        available: u64,
    },
    /// A zip archive that can't be unpacked safely.
    #[error("{path}: {message}", path = path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// A file of the cache can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Invalid settings, or settings that this machine does not support.
    #[error("{0}")]
    Settings(String),
    /// Another file failed, or the caller stopped the download.
    #[error("{0}: the download was stopped")]
    Stopped(String),
}

impl HubError {
    /// Stable name of the kind of failure.
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
            Self::Declined { .. } => "declined",
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
