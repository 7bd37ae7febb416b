//! Request bodies as typed values.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Json, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::connections::Room;
use crate::error::ApiError;

/// Maximum number of JSON values in a body, not counting field names. A value takes far more memory than its text.
const VALUES: usize = 1 << 18;

/// A deserialized body, and the memory reserved for it until it is tokenized.
pub(crate) struct Parsed<T>(pub(crate) T, pub(crate) Option<Arc<Room>>);

/// Approximate number of values; exact for well-formed JSON without empty arrays or objects.
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
        // Already received, and within the size limit.
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
