//! What a server allows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use candle_coreml::backend::BackendDevice;
use secrecy::SecretString;

/// Address and limits of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens; port 0 takes any free one.
    pub address: SocketAddr,
    /// Key that requests must name as `Authorization: Bearer KEY`; without it, everybody is served.
    pub api_key: Option<SecretString>,
    /// Answers of one model that are computed at once, and conversations whose caches it keeps.
    pub slots: usize,
    /// Requests for one model that may wait for a slot; more get status 429.
    pub queue: usize,
    /// Largest body of a request in bytes.
    pub max_body: usize,
    /// Longest time for a request, waiting included.
    pub timeout: Duration,
    /// How long a client may take for the head of a request, or to read any part of an answer.
    pub patience: Duration,
    /// How long answers may still take when the server is told to end.
    pub grace: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Where language models run first.
    pub device: BackendDevice,
    /// Devices that take over when that one can't be had.
    pub fallback: Vec<BackendDevice>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            api_key: None,
            slots: 4,
            queue: 64,
            max_body: 4 << 20,
            timeout: Duration::from_secs(600),
            patience: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            connections: 1024,
            device: BackendDevice::Auto,
            fallback: Vec::new(),
        }
    }
}
