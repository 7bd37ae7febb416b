//! Routes, and what holds for all of them: counting, the time limit, the key.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::time::Instant;

use crate::auth::{Key, is_for_this_machine};
use crate::error::ApiError;
use crate::metrics::CONTENT_TYPE;
use crate::models::{Kind, Models};
use crate::openai;
use crate::settings::Settings;

/// What handlers see.
pub(crate) struct App {
    pub(crate) models: Models,
    /// Seconds since 1970 when the server began.
    pub(crate) began: u64,
    key: Option<Key>,
    /// Whether only requests that name this machine are served.
    local: bool,
    timeout: Duration,
}

/// When a request must have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) after: Duration,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// All routes of a server, and what they see.
pub(crate) fn router(models: Models, settings: &Settings) -> (Arc<App>, Router) {
    let key = settings.api_key.as_ref().map(Key::new);
    let local = key.is_none() && settings.address.ip().is_loopback();
    let app = Arc::new(App { models, began: now(), key, local, timeout: settings.timeout });
    let router = Router::new()
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::chat::complete))
        .route("/v1/completions", post(openai::text::complete))
        .route("/v1/embeddings", post(openai::embeddings::embed))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(settings.max_body))
        .layer(from_fn_with_state(app.clone(), around))
        .with_state(app.clone());
    (app, router)
}

impl App {
    /// Whether a request names the key, if there is one.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        self.key.as_ref().is_none_or(|key| key.admits(headers))
    }

    /// Whether a request was meant for this machine, where only those are served.
    pub(crate) fn is_meant(&self, headers: &HeaderMap) -> bool {
        !self.local || is_for_this_machine(headers)
    }
}

async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("other".to_owned(), |p| p.as_str().to_owned());
    let open = path == "/health" || app.admits(request.headers());
    let began = Instant::now();
    let deadline = Deadline { at: began + app.timeout, after: app.timeout };
    request.extensions_mut().insert(deadline);
    let response = if !app.is_meant(request.headers()) {
        ApiError::host().into_response()
    } else if open {
        let answered = tokio::time::timeout_at(deadline.at, next.run(request)).await;
        answered.unwrap_or_else(|_| ApiError::timeout(app.timeout).into_response())
    } else {
        ApiError::key().into_response()
    };
    let status = response.status().as_u16();
    tracing::info!(path, status, seconds = began.elapsed().as_secs_f64());
    app.models.metrics.request(&path, status);
    response
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let names: Vec<&str> = app.models.all.iter().map(|m| m.name.as_str()).collect();
    axum::Json(serde_json::json!({"status": "ok", "models": names})).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let models = &app.models;
    for served in &models.all {
        let (waiting, running) = match &served.kind {
            Kind::Language(model) => (model.waiting(), model.running()),
            Kind::Encoder(model) => (model.waiting(), model.running()),
        };
        models.metrics.load(&served.name, waiting, running);
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], models.metrics.text()).into_response()
}

async fn nowhere(request: Request) -> ApiError {
    ApiError::no_path(StatusCode::NOT_FOUND, request.method(), request.uri().path())
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::no_path(StatusCode::METHOD_NOT_ALLOWED, request.method(), request.uri().path())
}
