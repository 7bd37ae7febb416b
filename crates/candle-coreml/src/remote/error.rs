//! Errors of remote models.

use std::time::Duration;

/// Maximum length of a server message that is passed on.
const LONGEST: usize = 300;

/// Error of a request to a remote model. Its texts never contain the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Invalid settings: a malformed URL or key.
    #[error("{0}")]
    Settings(String),
    /// The server rejects the key, or its permissions.
    #[error("the server refuses the API key (HTTP {status}): {message}")]
    Denied {
        /// 401 or 403.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// Too many requests.
    #[error("too many requests (HTTP 429): {message}{}", wait(*retry_after))]
    RateLimited {
        /// The server's message.
        message: String,
        /// Delay requested by the server.
        retry_after: Option<Duration>,
    },
    /// The server is overloaded.
    #[error("the server is overloaded, try again later: {message}{}", wait(*retry_after))]
    Overloaded {
        /// The server's message.
        message: String,
        /// Delay requested by the server.
        retry_after: Option<Duration>,
    },
    /// The server rejects this request: an unknown model, a conversation that is too long.
    #[error("the server rejects the request (HTTP {status}, {kind}): {message}")]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// The server's error type.
        kind: String,
        /// The server's message.
        message: String,
    },
    /// The server failed, before or during an answer.
    #[error("the server failed ({kind}): {message}")]
    Server {
        /// The server's error type, or the status.
        kind: String,
        /// The server's message.
        message: String,
    },
    /// No connection.
    #[error("{url} can't be reached: {cause}")]
    Unreachable {
        /// URL of the request.
        url: String,
        /// The network error.
        cause: String,
    },
    /// The answer was cut off, or does not match the documented API.
    #[error("the answer broke off: {cause}")]
    Broken {
        /// The details.
        cause: String,
    },
    /// The model refused to answer.
    #[error("the remote model refused to answer")]
    Refused,
}

fn wait(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |d| format!("; the server asks to wait {} s", d.as_secs()))
}

impl RemoteError {
    /// Stable name of the kind of failure.
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

/// Sanitises a server text for display: one line, no control characters, bounded length, without the key.
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
