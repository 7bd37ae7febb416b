//! What can go wrong with a remote model.

use std::time::Duration;

/// Longest message of a server that is passed on.
const LONGEST: usize = 300;

/// Why a remote model gave no answer, or no whole one. No text of it holds the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Settings that can't work: a malformed URL, a key that is none.
    #[error("{0}")]
    Settings(String),
    /// The server does not accept the key, or not for this.
    #[error("the server refuses the API key (HTTP {status}): {message}")]
    Denied {
        /// 401 or 403.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// Too many requests.
    #[error("too many requests (HTTP 429): {message}{}", wait(*retry_after))]
    RateLimited {
        /// What the server says.
        message: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server has too much to do.
    #[error("the server is overloaded, try again later: {message}{}", wait(*retry_after))]
    Overloaded {
        /// What the server says.
        message: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server does not want this request: an unknown model, a conversation that is too long.
    #[error("the server rejects the request (HTTP {status}, {kind}): {message}")]
    Rejected {
        /// The status.
        status: u16,
        /// The server's name for the failure.
        kind: String,
        /// What the server says.
        message: String,
    },
    /// The server failed, before or in the middle of an answer.
    #[error("the server failed ({kind}): {message}")]
    Server {
        /// The server's name for the failure, or the status.
        kind: String,
        /// What the server says.
        message: String,
    },
    /// No connection.
    #[error("{url} can't be reached: {cause}")]
    Unreachable {
        /// Where it was asked for.
        url: String,
        /// What the network says.
        cause: String,
    },
    /// The answer broke off, or is not what the API documents.
    #[error("the answer broke off: {cause}")]
    Broken {
        /// How.
        cause: String,
    },
    /// The model does not want to answer this.
    #[error("the remote model refused to answer")]
    Refused,
}

fn wait(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |d| format!("; the server asks to wait {} s", d.as_secs()))
}

impl RemoteError {
    /// A word for the kind of failure that later versions keep.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Denied { .. } => "denied",
            Self::RateLimited { .. } => "rate-limited",
            Self::Overloaded { .. } => "overloaded",
            Self::Rejected { .. } => "rejected",
            Self::Server { .. } => "server",
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "broken",
            Self::Refused => "refused",
        }
    }
}

/// A text of a server as it may be shown: on one line, without control characters, of bounded length, without the key.
pub(super) fn clean(text: &str, key: &str) -> String {
    let text = if key.is_empty() { text.to_owned() } else { text.replace(key, "…") };
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let text = words.join(" ");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_servers_are_made_harmless() {
        assert_eq!(clean("bad\x1b[2J key sk-1\r\nhere", "sk-1"), "bad [2J key … here");
        assert_eq!(clean(&"é".repeat(400), "").chars().count(), LONGEST + 1);
        assert_eq!(clean("", "k"), "");
    }
}
