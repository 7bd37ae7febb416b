//! Who may ask: bearers of the server's key.

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The digest of the key. Digests have one length, so that comparing them tells nothing of the key.
#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn new(key: &SecretString) -> Self {
        Self(Sha256::digest(key.expose_secret().as_bytes()).into())
    }

    /// Whether a request names the key.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
        // The scheme is not case-sensitive (RFC 9110, 11.1).
        let bytes = value.as_bytes();
        let Some((scheme, token)) = bytes.split_at_checked(7) else { return false };
        let given: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_admits() {
        let key = Key::new(&SecretString::from("s3cret"));
        let admits = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            key.admits(&headers)
        };
        assert!(admits("Bearer s3cret") && admits("bearer  s3cret "));
        for wrong in ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"] {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(!key.admits(&HeaderMap::new()));
    }
}
