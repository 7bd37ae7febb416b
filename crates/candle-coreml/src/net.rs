//! TLS and URLs, shared by the network clients.

pub(crate) mod tls;
pub(crate) mod url;
