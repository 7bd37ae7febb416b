//! Authentication: bearers of the server's key; without a key, on a loopback address, programs on this machine.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 digest of the key. Digests have equal lengths, so comparing them leaks nothing about the key.
#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn new(key: &SecretString) -> Self {
        Self(Sha256::digest(key.expose_secret().as_bytes()).into())
    }

    /// Returns true if the request carries the key.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        // With two headers, a proxy may have checked the other one.
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        // The scheme is not case-sensitive (RFC 9110, 11.1).
        let bytes = value.as_bytes();
        let Some((scheme, token)) = bytes.split_at_checked(7) else { return false };
        let given: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(&self.0))
    }
}

/// Returns true if the request names this machine as its host. A malicious web page can point its own host name to the
/// loopback address (DNS rebinding) and would pass as same-origin, but the request still carries that name.
pub(crate) fn is_for_this_machine(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::HOST) else { return true };
    let Some(authority) = value.to_str().ok().and_then(|h| h.parse::<Authority>().ok()) else { return false };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let host = host.to_ascii_lowercase();
    address.is_ok_and(|a| a.is_loopback()) || host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known() {
        let own = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header"));
            is_for_this_machine(&headers)
        };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "127.9.9.9", "[::1]:8080", "[::1]", "a.localhost"] {
            assert!(own(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]:1", "127.0.0.1.evil.example", "a b"]
        {
            assert!(!own(host), "{host}");
        }
        assert!(is_for_this_machine(&HeaderMap::new()));
    }

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
        let mut twice = HeaderMap::new();
        for value in ["Bearer s3cret", "Bearer other"] {
            twice.append(header::AUTHORIZATION, value.parse().expect("a header"));
        }
        assert!(!key.admits(&twice));
    }
}
