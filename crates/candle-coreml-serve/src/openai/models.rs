//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::models::{Kind, Served};
use crate::state::App;

fn object(served: &Served, created: u64) -> Value {
    let (does, length) = match &served.kind {
        Kind::Language(model) => ("text", model.info().context),
        Kind::Encoder(model) => ("embeddings", model.get().limit()),
    };
    // The last two are extensions; other servers use these names for the length.
    json!({
        "id": served.name, "object": "model", "created": created, "owned_by": "candle-coreml",
        "max_model_len": length, "task": does,
    })
}

pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.models.all.iter().map(|m| object(m, app.began)).collect();
    Json(json!({"object": "list", "data": data}))
}

pub(crate) async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let found = app.models.named(&id);
    let names = || app.models.all.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
    found.map(|m| Json(object(m, app.began))).ok_or_else(|| ApiError::no_model(&id, &names()))
}
