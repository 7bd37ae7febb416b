//! Progress events of a download.

use std::time::Duration;

/// Progress event of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another process or thread is downloading the same model; waiting for it.
    Waiting,
    /// The download is planned. `present` of `bytes` bytes exist from an earlier attempt.
    Planned {
        /// Number of files.
        files: usize,
        /// Their total size in bytes.
        bytes: u64,
        /// Bytes left from an earlier attempt.
        present: u64,
    },
    /// A file starts, or resumes, at `position` of its `size` bytes.
    Started {
        /// Path in the repository.
        file: &'a str,
        /// Size of the file in bytes.
        size: u64,
        /// Position in bytes.
        position: u64,
    },
    /// Progress of a file. The position can go back if a server restarts from zero.
    Progress {
        /// Path in the repository.
        file: &'a str,
        /// Position in bytes.
        position: u64,
    },
    /// A request failed and will be retried after a delay.
    Retry {
        /// File or model.
        what: &'a str,
        /// The failure.
        cause: &'a str,
        /// The delay.
        delay: Duration,
    },
    /// A file is complete and verified.
    Finished {
        /// Path in the repository.
        file: &'a str,
    },
}

/// Receives the events of a download, from several threads.
pub trait Observer: Send + Sync {
    /// Called for every event; a slow observer slows the download.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}
