//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::extract::{Json, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_coreml::encoder::{EncoderInput, TextEncoder};
use serde::Deserialize;
use serde_json::{Value, json};

use super::inputs::{Input, inputs};
use super::parsed::Parsed;
use crate::error::ApiError;
use crate::state::App;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    model: Option<String>,
    input: Value,
    encoding_format: Option<String>,
    dimensions: Option<u64>,
}

pub(crate) async fn embed(
    State(app): State<Arc<App>>,
    Parsed(request, room): Parsed<Request>,
) -> Result<Json<Value>, ApiError> {
    let (name, model) = app.models.encoder(request.model.as_deref())?;
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("expected `float` or `base64`, found `{other}`");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    let width = model.get().width();
    if request.dimensions.is_some_and(|d| d != width as u64) {
        return Err(ApiError::field("dimensions", format!("the model's vectors have {width} and can't be cut")));
    }
    let texts: Vec<EncoderInput> = inputs(request.input, "input")?
        .into_iter()
        .map(|input| match input {
            Input::Text(text) => EncoderInput::Text(text),
            Input::Tokens(ids) => EncoderInput::Tokens(ids),
        })
        .collect();
    model.get().check_lengths(&texts)?;
    let job = move |encoder: &TextEncoder| {
        let _room = room;
        encoder.embed(&texts)
    };
    let found = model.run(job).await?;
    app.models.metrics.encoded(name, found.tokens);
    let data: Vec<Value> = found
        .vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| json!({"object": "embedding", "index": index, "embedding": encoded(vector, base64)}))
        .collect();
    let usage = json!({"prompt_tokens": found.tokens, "total_tokens": found.tokens});
    Ok(Json(json!({"object": "list", "data": data, "model": name, "usage": usage})))
}

/// The vector as numbers, or as base64 of its bytes (f32, little-endian).
fn encoded(vector: &[f32], base64: bool) -> Value {
    if base64 {
        let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
        return Value::String(STANDARD.encode(bytes));
    }
    json!(vector)
}
