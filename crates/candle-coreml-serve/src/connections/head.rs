//! Request heads (RFC 9112). Ambiguous ones are refused, because a proxy in front may have parsed them differently.

use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING,
};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{Method, Request, StatusCode, Version};

use crate::error::ApiError;

/// Maximum bytes of a head.
pub(super) const HEAD: usize = 16 << 10;

/// Maximum bytes of a request target.
const TARGET: usize = 8 << 10;

/// Maximum number of header fields.
const FIELDS: usize = 64;

/// Framing of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    Chunked,
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    /// `None` if there is no body.
    pub(super) body: Option<Length>,
    /// True if the connection may be reused.
    pub(super) keep_alive: bool,
    /// True if the client waits for `100 Continue`.
    pub(super) expects: bool,
}

/// Returns true if the bytes contain an empty line, which ends a head; the first `before` were searched already.
pub(super) fn may_end(bytes: &[u8], before: usize) -> bool {
    let new = &bytes[before.saturating_sub(3)..];
    new.windows(2).any(|w| w == b"\n\n") || new.windows(3).any(|w| w == b"\n\r\n")
}

/// Parses the head at the start of `bytes` and returns its length; `None` if incomplete.
///
/// # Errors
/// If the head is malformed, ambiguous or too long.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, ApiError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD => return Ok(None),
        Ok(_) => return Err(too_long(request.path)),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, format!("more than {FIELDS} fields")));
        }
        Err(httparse::Error::Version) => {
            return Err(refused(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "expected HTTP/1.1 or HTTP/1.0"));
        }
        Err(error) => return Err(malformed(error)),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(malformed("no request line"));
    };
    if target.len() > TARGET {
        return Err(too_long(None));
    }
    let mut parts = Request::new(()).into_parts().0;
    parts.method = Method::from_bytes(method.as_bytes()).map_err(malformed)?;
    parts.uri = target.parse().map_err(malformed)?;
    parts.version = if minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(malformed)?;
        parts.headers.append(name, HeaderValue::from_bytes(field.value).map_err(malformed)?);
    }
    if parts.method == Method::CONNECT {
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, "this is no proxy"));
    }
    check_host(&parts)?;
    let body = body(&parts)?;
    let expects = expects(&parts)?;
    let keep_alive = minor == 1 && !lists(&parts.headers, &CONNECTION, "close");
    Ok(Some((Head { parts, body, keep_alive, expects }, length)))
}

/// The `origin` field of a head that can't be parsed, for the page that sent it; none if there are several.
pub(super) fn origins(bytes: &[u8]) -> HeaderMap {
    let lines = bytes[..bytes.len().min(HEAD)].split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let fields = lines.skip(1).take_while(|l| !l.is_empty()).filter_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|&b| b == b':')?)?;
        name.eq_ignore_ascii_case(b"origin").then(|| HeaderValue::from_bytes(value[1..].trim_ascii()).ok())?
    });
    let mut all = HeaderMap::new();
    if let [one] = fields.collect::<Vec<_>>().as_slice() {
        all.insert(ORIGIN, one.clone());
    }
    all
}

fn refused(status: StatusCode, message: impl std::fmt::Display) -> ApiError {
    ApiError::head(status, message)
}

fn malformed(what: impl std::fmt::Display) -> ApiError {
    refused(StatusCode::BAD_REQUEST, format!("malformed request: {what}"))
}

/// `target` is known if the fields after it are too long.
fn too_long(target: Option<&str>) -> ApiError {
    match target {
        Some(target) if target.len() <= TARGET => {
            refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, format!("the head has more than {HEAD} bytes"))
        }
        _ => refused(StatusCode::URI_TOO_LONG, format!("the target has more than {TARGET} bytes")),
    }
}

/// Returns true if a list-valued field contains an element.
fn lists(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    let elements = headers.get_all(name).iter().flat_map(|v| v.as_bytes().split(|&b| b == b','));
    elements.map(<[u8]>::trim_ascii).any(|e| e.eq_ignore_ascii_case(element.as_bytes()))
}

/// The field's only value.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, ApiError> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (first, None) => Ok(first),
        _ => Err(malformed(format!("more than one field `{name}`"))),
    }
}

/// Requires one `Host`, mandatory in HTTP/1.1, which an absolute target must match (RFC 9112, 3.2).
fn check_host(parts: &Parts) -> Result<(), ApiError> {
    let host = match only(&parts.headers, &HOST)? {
        Some(host) => host,
        None if parts.version == Version::HTTP_10 => return Ok(()),
        None => return Err(malformed("no field `host`")),
    };
    let authority = host.to_str().ok().and_then(authority);
    let Some(authority) = authority else { return Err(malformed("the field `host` is not a host and perhaps a port")) };
    match parts.uri.authority() {
        Some(target) if *target != authority => Err(malformed("the target and the field `host` name different hosts")),
        _ => Ok(()),
    }
}

/// A host with an optional port, and nothing else.
fn authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let rest = text.strip_prefix(authority.host())?;
    let port = rest.is_empty() || rest.strip_prefix(':').is_some_and(|p| p.is_empty() || p.parse::<u16>().is_ok());
    (port && !authority.host().is_empty()).then_some(authority)
}

/// Body framing: declared once, and in one way (RFC 9112, 6.3).
fn body(parts: &Parts) -> Result<Option<Length>, ApiError> {
    let length = only(&parts.headers, &CONTENT_LENGTH)?;
    let Some(coding) = only(&parts.headers, &TRANSFER_ENCODING)? else {
        let Some(length) = length else { return Ok(None) };
        // Digits only: `parse` alone accepts a sign.
        let digits = length.to_str().ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
        let length =
            digits.and_then(|t| t.parse().ok()).ok_or_else(|| malformed("`content-length` is not a number"))?;
        return Ok((length > 0).then_some(Length::Known(length)));
    };
    if length.is_some() {
        return Err(malformed("both `content-length` and `transfer-encoding`"));
    }
    if parts.version == Version::HTTP_10 {
        return Err(malformed("`transfer-encoding` in HTTP/1.0"));
    }
    if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(refused(StatusCode::NOT_IMPLEMENTED, "`transfer-encoding`: only `chunked` is supported"));
    }
    Ok(Some(Length::Chunked))
}

fn expects(parts: &Parts) -> Result<bool, ApiError> {
    match parts.headers.get(EXPECT) {
        Some(_) if parts.version == Version::HTTP_10 => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(refused(StatusCode::EXPECTATION_FAILED, "`expect`: only `100-continue` is supported")),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(Head, usize)>, ApiError> {
        parse(text.as_bytes())
    }

    #[test]
    fn a_head_is_read_as_it_was_meant() {
        let text = "POST /v1/x?y HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 007\r\nExpect: 100-Continue\r\n\r\nrest";
        let (head, length) = read(text).expect("well formed").expect("whole");
        assert_eq!((&text[length..], head.parts.uri.path()), ("rest", "/v1/x"));
        assert_eq!((head.body, head.keep_alive, head.expects), (Some(Length::Known(7)), true, true));
        let whole = |text: &str| read(text).expect("well formed").expect("whole").0;
        assert_eq!(whole("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").body, None);
        assert_eq!(
            whole("GET / HTTP/1.1\r\nHost: a:\r\nTransfer-Encoding: Chunked\r\n\r\n").body,
            Some(Length::Chunked)
        );
        assert!(!whole("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").keep_alive);
        whole("GET http://a:1/x HTTP/1.1\r\nHost: A:1\r\n\r\n");
        for end in 0..text.len() - "rest".len() {
            assert!(matches!(read(&text[..end]), Ok(None)), "{end}");
            assert!(!may_end(&text.as_bytes()[..end], 0));
        }
        for split in 0..text.len() {
            assert!(may_end(text.as_bytes(), split.min(length - 1)), "{split}");
        }
    }

    #[test]
    fn what_is_ambiguous_malformed_or_too_long_is_refused() {
        let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let long = "x".repeat(HEAD);
        let many = (0..FIELDS).map(|i| format!("f{i}: 1\r\n")).collect::<String>();
        for (text, status) in [
            (get(""), 400),
            (get("Host:\r\n"), 400),
            (get("Host: a\r\nHost: a\r\n"), 400),
            (get("Host: a b\r\n"), 400),
            (get("Host: user@a\r\n"), 400),
            (get("Host: a/b\r\n"), 400),
            (get("Host: a:99999\r\n"), 400),
            (get("Host: a:x\r\n"), 400),
            (get("Host: a,b\r\nHost: c\r\n"), 400),
            ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
            (get("Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n"), 400),
            (get("Host: a\r\nContent-Length: 1, 1\r\n"), 400),
            (get("Host: a\r\nContent-Length: +1\r\n"), 400),
            (get("Host: a\r\nContent-Length: \r\n"), 400),
            (get("Host: a\r\nContent-Length: 99999999999999999999\r\n"), 400),
            (get("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400),
            (get("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 400),
            (get("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
            (get("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"), 501),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            (get("Host: a\r\nExpect: more\r\n"), 417),
            (get("Host : a\r\n"), 400),
            (get("Host: a\r\n folded\r\n"), 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(), 405),
            ("GET / HTTP/2.0\r\n\r\n".to_owned(), 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
            ("\u{16}\u{3}\u{1}\u{2}".to_owned(), 400),
            (format!("GET /{long}"), 414),
            (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(TARGET)), 414),
            (get(&format!("Host: a\r\nx: {long}\r\n")), 431),
            (get(&format!("Host: a\r\n{many}")), 431),
        ] {
            let error = read(&text).expect_err(&text);
            assert_eq!(error.status.as_u16(), status, "{text:.80}: {}", error.message);
        }
        // Empty lines before a request are skipped, up to the limit.
        assert!(matches!(read("\r\n\r\n"), Ok(None)));
        assert!(read(&"\r\n".repeat(HEAD / 2)).is_err());
    }
}
