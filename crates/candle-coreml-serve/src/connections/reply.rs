//! Response writer (RFC 9112).

use std::io::{Error, Result};
use std::time::SystemTime;

use axum::body::{Bytes, HttpBody};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method, StatusCode, Version};
use axum::response::Response;
use futures_util::{FutureExt, StreamExt};

use super::wire::{Patience, Wire};

/// Parts that are ready are coalesced up to about this many bytes.
const TOGETHER: usize = 16 << 10;

/// Properties of the request that affect its response.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) method: Method,
    /// True if the connection may be reused.
    pub(super) keep_alive: bool,
}

/// Framing of the body's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Length,
    Chunks,
    Close,
}

/// Writes a response; returns true if the connection may be reused.
///
/// # Errors
/// If the client disconnected or does not read, or the body fails. The response may then be incomplete.
pub(super) async fn write(wire: &mut Wire, response: Response, asked: &Asked, patience: Patience) -> Result<bool> {
    let (mut parts, body) = response.into_parts();
    let end = match body.size_hint().exact() {
        Some(length) => {
            // A HEAD response may carry the length of the GET response.
            if asked.method != Method::HEAD {
                parts.headers.insert(CONTENT_LENGTH, length.into());
            }
            End::Length
        }
        None if asked.version == Version::HTTP_11 => End::Chunks,
        None => End::Close,
    };
    if end == End::Chunks {
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let keep_alive = asked.keep_alive && end != End::Close;
    if !keep_alive {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let mut out = head(parts.status, parts.headers);
    if asked.method == Method::HEAD {
        wire.write(&out, patience).await?;
        return Ok(keep_alive);
    }
    let mut body = body.into_data_stream().fuse();
    loop {
        // Coalesce parts that are ready.
        let next = loop {
            match body.next().now_or_never() {
                Some(Some(part)) if out.len() < TOGETHER => push(&mut out, &part.map_err(Error::other)?, end),
                ready => break ready,
            }
        };
        if matches!(next, Some(None)) && end == End::Chunks {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        wire.write(&out, patience).await?;
        out.clear();
        let next = match next {
            Some(None) => return Ok(keep_alive),
            Some(next) => next,
            None => tokio::select! {
                next = body.next() => next,
                () = wire.gone(false) => return Err(std::io::ErrorKind::ConnectionReset.into()),
            },
        };
        if let Some(part) = next {
            push(&mut out, &part.map_err(Error::other)?, end);
        }
    }
}

fn push(out: &mut Vec<u8>, part: &Bytes, end: End) {
    // An empty chunk would end the body.
    if part.is_empty() {
        return;
    }
    if end == End::Chunks {
        out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
    }
    out.extend_from_slice(part);
    if end == End::Chunks {
        out.extend_from_slice(b"\r\n");
    }
}

fn head(status: StatusCode, mut headers: HeaderMap) -> Vec<u8> {
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        headers.insert(DATE, date);
    }
    let mut out = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in &headers {
        for bytes in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}
