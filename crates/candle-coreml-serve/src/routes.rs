//! Routes and the middleware around them: metrics, time limit, authentication.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::metrics::CONTENT_TYPE;
use crate::models::{Kind, Models};
use crate::openai;
use crate::settings::Settings;
use crate::state::{App, Deadline};

/// Builds the router and its state.
pub(crate) fn router(models: Models, settings: &Settings) -> (Arc<App>, Router) {
    let app = Arc::new(App::new(models, settings));
    let router = Router::new()
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::complete::<openai::chat::Request>))
        .route("/v1/completions", post(openai::complete::<openai::text::Request>))
        .route("/v1/responses", post(openai::responses::respond))
        .route("/v1/embeddings", post(openai::embeddings::embed))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(settings.max_body))
        .layer(from_fn_with_state(app.clone(), middleware))
        .with_state(app.clone());
    (app, router)
}

async fn middleware(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let asked = app.origins.asked(request.headers());
    let path = request.extensions().get::<MatchedPath>().map_or("other".to_owned(), |p| p.as_str().to_owned());
    let open = path == "/health" || app.admits(request.headers());
    let began = Instant::now();
    let deadline = Deadline { at: began + app.timeout, after: app.timeout };
    request.extensions_mut().insert(deadline);
    let mut response = if !app.is_meant(request.headers()) {
        ApiError::host().into_response()
    } else if let Some(preflight) = asked.as_ref().and_then(|asked| asked.preflight(&request)) {
        preflight
    } else if open {
        let answered = tokio::time::timeout_at(deadline.at, next.run(request)).await;
        answered.unwrap_or_else(|_| ApiError::timeout(app.timeout).into_response())
    } else {
        ApiError::key().into_response()
    };
    if let Some(asked) = asked {
        asked.allow(response.headers_mut());
    }
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

async fn not_found(request: Request) -> ApiError {
    ApiError::no_path(StatusCode::NOT_FOUND, request.method(), request.uri().path())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::no_path(StatusCode::METHOD_NOT_ALLOWED, request.method(), request.uri().path())
}
