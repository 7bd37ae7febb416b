//! What a download tells about itself while it runs.

use std::time::Duration;

/// Something that happened during a download.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another process or thread downloads the same model; this one waits for it.
    Waiting,
    /// What will be downloaded. `present` bytes of `bytes` are already there from an earlier attempt.
    Planned {
        /// Number of files.
        files: usize,
        /// Their bytes together.
        bytes: u64,
        /// Bytes that an earlier attempt left.
        present: u64,
    },
    /// A file begins, or goes on, at `position` of its `size` bytes.
    Started {
        /// Path in the repository.
        file: &'a str,
        /// Bytes of the whole file.
        size: u64,
        /// Bytes that are there.
        position: u64,
    },
    /// So many bytes of a file are there now. The position can go back when a server starts over.
    Progress {
        /// Path in the repository.
        file: &'a str,
        /// Bytes that are there.
        position: u64,
    },
    /// A request failed and is repeated after a pause.
    Retry {
        /// File or model.
        what: &'a str,
        /// What failed.
        cause: &'a str,
        /// The pause.
        delay: Duration,
    },
    /// A file is complete and verified.
    Finished {
        /// Path in the repository.
        file: &'a str,
    },
}

/// Is told of the events of a download, from several threads.
pub trait Observer: Send + Sync {
    /// Called for every event; a slow observer slows the download.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}
