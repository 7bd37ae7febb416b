//! Server settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use candle_coreml::backend::BackendDevice;
use secrecy::SecretString;

/// Address and limits of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on; port 0 picks a free one.
    pub address: SocketAddr,
    /// Key required as `Authorization: Bearer KEY`; `None` serves everyone.
    pub api_key: Option<SecretString>,
    /// Origins of web pages that may use the server, such as `https://example.com`, or `*` for all.
    pub allow_origins: Vec<String>,
    /// Answers computed concurrently per model, and conversations whose caches are kept.
    pub slots: usize,
    /// Requests per model that may wait for a slot; more get status 429.
    pub queue: usize,
    /// Maximum bytes of a request body.
    pub max_body: usize,
    /// Maximum bytes of request bodies in memory, over all requests. One address gets a quarter, but at least
    /// [`max_body`](Self::max_body). A body that does not fit waits, up to its time limit.
    pub bodies: usize,
    /// Time limit of a request from its receipt, including waiting.
    pub timeout: Duration,
    /// Time limit of a request head, from its first byte; on a new connection, from its start.
    pub head_time: Duration,
    /// Time limit of a request body, plus one second for every [`body_rate`](Self::body_rate) bytes received.
    pub body_time: Duration,
    /// Minimum bytes per second of a body after [`body_time`](Self::body_time).
    pub body_rate: usize,
    /// Maximum idle time of a connection between requests. A connection without a valid key is closed after its
    /// response.
    pub idle_time: Duration,
    /// Time limit for a client to read any part of an answer.
    pub patience: Duration,
    /// Time limit for running answers at shutdown.
    pub grace: Duration,
    /// Maximum number of connections.
    pub connections: usize,
    /// Maximum number of connections per address; for IPv6, per /64.
    pub share: usize,
    /// Connections beyond [`connections`](Self::connections) and [`share`](Self::share) on which `/health` and
    /// `/metrics` are still answered; other requests get status 503 or 429. A new one replaces the oldest.
    pub reserve: usize,
    /// Preferred device of language models.
    pub device: BackendDevice,
    /// Devices to try if the first is unavailable or fails to start.
    pub fallback: Vec<BackendDevice>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            api_key: None,
            allow_origins: Vec::new(),
            slots: 4,
            queue: 64,
            max_body: 4 << 20,
            bodies: 64 << 20,
            timeout: Duration::from_secs(600),
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            body_rate: 64 << 10,
            idle_time: Duration::from_secs(60),
            patience: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            connections: 1024,
            share: 256,
            reserve: 32,
            device: BackendDevice::Auto,
            fallback: Vec::new(),
        }
    }
}
