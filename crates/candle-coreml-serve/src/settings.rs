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
    /// Bytes of request bodies that are in memory at once, all requests together. One address gets a quarter, but at
    /// least [`max_body`](Self::max_body). A body for which there is no room waits as long as it may take.
    pub bodies: usize,
    /// Longest time for a request from when it was received, waiting included.
    pub timeout: Duration,
    /// Longest time for the head of a request: from its first byte, on a new connection from its beginning.
    pub head_time: Duration,
    /// Longest time for the body of a request, plus one second for every [`body_rate`](Self::body_rate) bytes that
    /// have come.
    pub body_time: Duration,
    /// Bytes per second that a body must come at, once [`body_time`](Self::body_time) is over.
    pub body_rate: usize,
    /// How long a connection may be silent between requests. One whose client has not shown the key is closed after
    /// its answer.
    pub idle_time: Duration,
    /// How long a client may take to read any part of an answer.
    pub patience: Duration,
    /// How long answers may still take when the server is told to end.
    pub grace: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address; of IPv6, from one /64.
    pub share: usize,
    /// Connections beyond [`connections`](Self::connections) and [`share`](Self::share) in which `/health` and
    /// `/metrics` are still answered; other requests get status 503 or 429. The oldest one makes room for a new one.
    pub reserve: usize,
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
