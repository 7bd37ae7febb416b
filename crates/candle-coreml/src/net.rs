//! What the clients of networks share: TLS and URLs.

pub(crate) mod tls;
pub(crate) mod url;
