//! One request and its response stream.

use std::io::{BufReader, Read};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use ureq::http::HeaderValue;

use super::RemoteError;
use super::api::{self, ApiError, Delta, ErrorBody, Event, Usage, VERSION};
use super::error::clean;
use super::sse::Events;
use crate::generation::StopReason;
use crate::net::tls;

/// Maximum size of an error response in bytes.
const LARGEST_ERROR: u64 = 64 << 10;

/// Messages from the connection thread.
pub(super) enum News {
    Text(String),
    Usage(Usage),
    Done(StopReason),
    Failed(RemoteError),
}

/// Runs one request and sends its events to `sender`. Stops early if the receiver is gone.
pub(super) fn exchange(
    agent: &ureq::Agent,
    url: &str,
    key: &SecretString,
    body: &[u8],
    sender: &SyncSender<News>,
) -> std::result::Result<(), RemoteError> {
    let secret = key.expose_secret();
    let unreachable = |e: ureq::Error| {
        let what = if tls::is_distrust(&e) { "its certificate is not trusted: " } else { "" };
        RemoteError::Unreachable { url: url.to_owned(), cause: clean(&format!("{what}{e}"), secret) }
    };
    let mut header = HeaderValue::from_str(secret)
        .map_err(|_| RemoteError::Settings("api_key: it does not fit a header".to_owned()))?;
    // Keeps the key out of the client's logs.
    header.set_sensitive(true);
    let request = agent.post(url).header("x-api-key", header).header(VERSION.0, VERSION.1);
    let request = request.header("content-type", "application/json").header("accept", "text/event-stream");
    let response = request.send(body).map_err(unreachable)?;
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        let after = parts.headers.get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let mut text = Vec::new();
        // Without a readable body, only the status is reported.
        let _ = body.into_reader().take(LARGEST_ERROR).read_to_end(&mut text);
        return Err(refusal(parts.status.as_u16(), after.map(Duration::from_secs), &text, secret));
    }
    let mut events = Events::new(BufReader::new(body.into_reader()));
    let mut reason = StopReason::EndOfText;
    while let Some(data) = events.next()? {
        let event = serde_json::from_str(&data).map_err(|e| RemoteError::Broken {
            cause: format!("an event is not what the API documents: {}", clean(&e.to_string(), secret)),
        })?;
        let news = match event {
            Event::MessageStart { message } => message.usage.map(News::Usage),
            Event::ContentBlockDelta { delta: Delta::TextDelta { text } } => Some(News::Text(text)),
            Event::MessageDelta { delta, usage } => {
                if let Some(name) = delta.stop_reason {
                    reason = api::stop_reason(&name).ok_or(RemoteError::Refused)?;
                }
                usage.map(News::Usage)
            }
            Event::MessageStop => Some(News::Done(reason)),
            Event::Error { error } => return Err(failure(error, secret)),
            Event::ContentBlockDelta { delta: Delta::Other } | Event::Other => None,
        };
        let done = matches!(news, Some(News::Done(_)));
        if news.is_some_and(|news| sender.send(news).is_err()) || done {
            return Ok(());
        }
    }
    Err(RemoteError::Broken { cause: "the stream ended before the answer did".to_owned() })
}

/// Maps a failure in the middle of a stream.
fn failure(error: ApiError, secret: &str) -> RemoteError {
    let (kind, message) = (clean(&error.kind, secret), clean(&error.message, secret));
    match kind.as_str() {
        "overloaded_error" => RemoteError::Overloaded { message, retry_after: None },
        "rate_limit_error" => RemoteError::RateLimited { message, retry_after: None },
        _ => RemoteError::Server { kind, message },
    }
}

/// Maps an error status.
fn refusal(status: u16, retry_after: Option<Duration>, body: &[u8], secret: &str) -> RemoteError {
    let parsed: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let error = parsed.map_or_else(
        || ApiError { kind: "no details".to_owned(), message: String::from_utf8_lossy(body).into_owned() },
        |body| body.error,
    );
    let (kind, message) = (clean(&error.kind, secret), clean(&error.message, secret));
    match (status, kind.as_str()) {
        (401 | 403, _) => RemoteError::Denied { status, message },
        (429, _) => RemoteError::RateLimited { message, retry_after },
        (529, _) | (_, "overloaded_error") => RemoteError::Overloaded { message, retry_after },
        (500.., _) => RemoteError::Server { kind: format!("HTTP {status}, {kind}"), message },
        _ => RemoteError::Rejected { status, kind, message },
    }
}
