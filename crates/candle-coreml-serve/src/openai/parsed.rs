//! Bodies of requests as typed values.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Json, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::connections::Room;
use crate::error::ApiError;

/// Most values of a body, names of fields not counted. A value takes far more memory than the comma before it.
const VALUES: usize = 1 << 18;

/// What a request says as JSON, and the room that it takes in memory until it is tokenized.
pub(crate) struct Parsed<T>(pub(crate) T, pub(crate) Option<Arc<Room>>);

/// About how many values JSON has; exact where it is well formed and its arrays and objects are not empty.
fn values(json: &[u8]) -> usize {
    let (mut count, mut text, mut escaped) = (1, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = text,
            b'"' => text = !text,
            b',' | b'[' | b'{' if !text => count += 1,
            _ => {}
        }
    }
    count
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Parsed<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let room = parts.extensions.remove::<Arc<Room>>();
        // It is here already, and no larger than it may be.
        let failed = |e| ApiError::head(StatusCode::BAD_REQUEST, format!("the body can't be read: {e}"));
        let bytes = to_bytes(body, usize::MAX).await.map_err(failed)?;
        let count = values(&bytes);
        if count > VALUES {
            return Err(ApiError::too_many("values in the body", count, VALUES));
        }
        let Json(value) = Json::from_request(Request::from_parts(parts, Body::from(bytes)), state).await?;
        Ok(Self(value, room))
    }
}

#[cfg(test)]
mod tests {
    use super::values;

    #[test]
    fn values_are_counted_outside_texts() {
        for (json, count) in [
            ("1", 1),
            ("[1]", 2),
            ("[1, 2, 3]", 4),
            ("{\"a\": 1, \"b\": [2]}", 4),
            (r#""a,[{\",\\""#, 1),
            (r#"["\\", "]"]"#, 3),
        ] {
            assert_eq!(values(json.as_bytes()), count, "{json}");
        }
    }
}
