//! Errors of the server ([`ServeError`]) and of a request ([`ApiError`]), which becomes an OpenAI error object.

use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use candle_coreml::{Error, ErrorKind};
use serde_json::{Value, json};

/// Reason why a server cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No model was given.
    #[error("no model to serve")]
    NoModel,
    /// Two models share a name.
    #[error("two models are called `{0}`; give one of them another name")]
    SameName(String),
    /// A model failed to load.
    #[error("{name}: {source}")]
    Model {
        /// Name of the model.
        name: String,
        /// Cause.
        source: Box<Error>,
    },
    /// The folder contains neither a language model nor an encoder.
    #[error("{name}: not a language model ({language}), and not an encoder ({encoder})")]
    Neither {
        /// Name of the model.
        name: String,
        /// Reason why it is not a language model.
        language: Box<Error>,
        /// Reason why it is not an encoder.
        encoder: Box<Error>,
    },
    /// Binding the address failed.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// System error.
        source: std::io::Error,
    },
    /// Installing signal handlers failed.
    #[error("can't wait for signals: {0}")]
    Signals(std::io::Error),
}

/// Reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) param: Option<String>,
    pub(crate) message: String,
}

const INVALID: &str = "invalid_request_error";

/// Maximum bytes of a message, which may quote a request of any length.
const MESSAGE: usize = 1000;

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, mut message: String) -> Self {
        if message.len() > MESSAGE {
            message.truncate(message.floor_char_boundary(MESSAGE));
            message.push('…');
        }
        Self { status, kind, code, param: None, message }
    }

    /// Invalid field.
    pub(crate) fn field(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("{param}: {message}");
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, INVALID, None, message) }
    }

    /// Unknown model.
    pub(crate) fn no_model(name: &str, available: &str) -> Self {
        let message = format!("model `{name}` not found; available: {available}");
        let error = Self::new(StatusCode::NOT_FOUND, INVALID, Some("model_not_found"), message);
        Self { param: Some("model".to_owned()), ..error }
    }

    /// Wrong or missing key.
    pub(crate) fn key() -> Self {
        let message = "a valid key is needed: Authorization: Bearer KEY".to_owned();
        Self::new(StatusCode::UNAUTHORIZED, INVALID, Some("invalid_api_key"), message)
    }

    /// Request with a foreign host name.
    pub(crate) fn host() -> Self {
        let message = "without a key, only requests to localhost or a loopback address are served".to_owned();
        Self::new(StatusCode::FORBIDDEN, INVALID, Some("wrong_host"), message)
    }

    /// Unknown path or method.
    pub(crate) fn no_path(status: StatusCode, method: &axum::http::Method, path: &str) -> Self {
        Self::new(status, INVALID, Some("unknown_url"), format!("{method} {path} does not exist here"))
    }

    /// Request timeout.
    pub(crate) fn timeout(after: std::time::Duration) -> Self {
        let message = format!("the request took longer than {} seconds", after.as_secs_f64());
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", Some("timeout"), message)
    }

    /// Malformed head or body framing.
    pub(crate) fn head(status: StatusCode, message: impl std::fmt::Display) -> Self {
        Self::new(status, INVALID, None, message.to_string())
    }

    /// Part of a request that arrived too slowly.
    pub(crate) fn slow(part: &str, after: std::time::Duration) -> Self {
        let message = format!("the {part} of the request took longer than {} seconds", after.as_secs_f64());
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", Some("timeout"), message)
    }

    /// Body too large.
    pub(crate) fn too_large(most: usize) -> Self {
        let message = format!("the body has more than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, None, message)
    }

    /// Too many items.
    pub(crate) fn too_many(what: &str, count: usize, most: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, None, format!("{count} {what}; at most {most}"))
    }

    /// Too many connections from one client.
    pub(crate) fn share() -> Self {
        let message = "too many connections come from your address; close some".to_owned();
        Self::new(StatusCode::TOO_MANY_REQUESTS, "requests", Some("rate_limit_exceeded"), message)
    }

    /// Server out of capacity.
    pub(crate) fn overloaded(why: &str) -> Self {
        let message = format!("the server is overloaded: {why}; try again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("overloaded"), message)
    }

    /// Server shutting down.
    pub(crate) fn ending() -> Self {
        let message = "the server is ending; ask another one".to_owned();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("overloaded"), message)
    }

    /// Internal error (panic).
    pub(crate) fn panicked() -> Self {
        let message = "the request met a fault of the server; its log says more".to_owned();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, message)
    }

    /// Response body: OpenAI's error object.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let invalid = |code, message| Self::new(StatusCode::BAD_REQUEST, INVALID, code, message);
        match (error.kind(), &error) {
            (ErrorKind::Argument | ErrorKind::EmptyPrompt | ErrorKind::UnknownToken | ErrorKind::NoChatTemplate, _)
            | (_, Error::TextTooLong { .. }) => invalid(None, error.to_string()),
            (ErrorKind::PromptTooLong, _) => invalid(Some("context_length_exceeded"), error.to_string()),
            // The template rejects the messages; do not reveal its path to clients.
            (_, Error::Template { source, .. }) => invalid(None, source.to_string()),
            (ErrorKind::Busy, _) => {
                let message = format!("the server is busy: {error}; try again later");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "requests", Some("rate_limit_exceeded"), message)
            }
            // Mentions server files: for the log, not for clients.
            _ => {
                tracing::error!(%error, "a model failed");
                let message = "the model failed; the server's log says why".to_owned();
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, message)
            }
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        // A body of the wrong shape is a client error, like invalid JSON.
        let status = match rejection.status() {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            other => other,
        };
        Self::new(status, INVALID, None, rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            StatusCode::UNAUTHORIZED => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            _ => None,
        };
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_status_that_clients_act_on_and_name_no_file() {
        let path = std::path::PathBuf::from("/secret/place");
        let kind = candle_coreml::generation::TemplateErrorKind::Raised("roles".to_owned());
        let roles = candle_coreml::generation::TemplateError { line: 1, kind };
        for (error, status, part) in [
            (Error::Request("too odd".to_owned()), 400, "too odd"),
            (Error::PromptTooLong { tokens: 9, context: 8 }, 400, "context_length_exceeded"),
            (Error::EmptyPrompt, 400, "empty"),
            (Error::NoChatTemplate, 400, "chat template"),
            (Error::TextTooLong { bytes: 9, most: 8 }, 400, "at most 8 bytes"),
            (Error::PromptBytes { bytes: 9, most: 8, context: 1 }, 400, "context_length_exceeded"),
            (Error::Busy { limit: 3 }, 429, "rate_limit_exceeded"),
            (Error::Template { path: path.clone(), source: roles }, 400, "chat template: line 1: roles"),
            (Error::File { path: path.clone(), message: "broken".to_owned() }, 500, "server_error"),
            (Error::Components { path, message: "gone".to_owned() }, 500, "server's log"),
        ] {
            let error = ApiError::from(error);
            let text = error.body().to_string();
            assert_eq!(error.status.as_u16(), status, "{text}");
            assert!(text.contains(part) && !text.contains("secret"), "{text}");
        }
        let long = ApiError::no_model(&"é".repeat(MESSAGE), "").message;
        assert!(long.len() < MESSAGE + 4 && long.ends_with("é…"), "{long}");
        let response = ApiError::from(Error::Busy { limit: 0 }).into_response();
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
