//! Cross-origin requests of web pages (the CORS protocol of <https://fetch.spec.whatwg.org>), for origins that are allowed.

use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

/// Headers that pages send where a preflight names none.
const USUAL: HeaderValue = HeaderValue::from_static("authorization, content-type");

/// Seconds for which a browser remembers a preflight.
const MEMORY: HeaderValue = HeaderValue::from_static("600");

/// The origins that may use the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    all: bool,
    allowed: Vec<String>,
}

/// The allowed origin of a request.
#[derive(Debug, Clone)]
pub(crate) struct Asked(HeaderValue);

impl Origins {
    pub(crate) fn new(allowed: &[String]) -> Self {
        let plain = |origin: &String| origin.trim().trim_end_matches('/').to_ascii_lowercase();
        Self { all: allowed.iter().any(|o| o == "*"), allowed: allowed.iter().map(plain).collect() }
    }

    /// The origin of a request, if it is allowed.
    pub(crate) fn asked(&self, headers: &HeaderMap) -> Option<Asked> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        (self.all || self.allowed.contains(&text)).then(|| Asked(origin.clone()))
    }
}

impl Asked {
    /// The answer to a preflight; `None` for other requests. Browsers send it without a key.
    pub(crate) fn preflight(&self, request: &Request) -> Option<Response> {
        let headers = request.headers();
        if request.method() != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let answers = response.headers_mut();
        let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        answers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(USUAL));
        answers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        answers.insert(header::ACCESS_CONTROL_MAX_AGE, MEMORY);
        if headers.contains_key("access-control-request-private-network") {
            answers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
        }
        Some(response)
    }

    /// Lets the page read the response.
    pub(crate) fn allow(self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.0);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole() {
        let asked = |allowed: &[&str], origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().expect("a header"));
            Origins::new(&allowed.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>()).asked(&headers).is_some()
        };
        assert!(asked(&["http://a.example:3000/"], "http://a.example:3000") && asked(&["*"], "null"));
        for (allowed, origin) in [
            (&["http://a.example"][..], "https://a.example"),
            (&["http://a.example"], "http://a.example.evil.example"),
            (&["http://a.example"], "http://b.example"),
            (&[], "http://a.example"),
        ] {
            assert!(!asked(allowed, origin), "{origin}");
        }
        assert!(Origins::new(&["*".to_owned()]).asked(&HeaderMap::new()).is_none());
    }
}
