//! State shared by handlers: models, key, time limit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::auth::{Key, is_for_this_machine};
use crate::error::ApiError;
use crate::models::Models;
use crate::origins::Origins;
use crate::settings::Settings;

/// State of a server.
pub(crate) struct App {
    pub(crate) models: Models,
    /// Start time of the server, in seconds since 1970.
    pub(crate) began: u64,
    key: Option<Key>,
    /// True if only requests that name this machine are served.
    local: bool,
    /// Answers that one request has computed at once.
    pub(crate) slots: usize,
    /// Requests that are prepared at once.
    preparing: Semaphore,
    pub(crate) origins: Origins,
    pub(crate) timeout: Duration,
}

impl App {
    pub(crate) fn new(models: Models, settings: &Settings) -> Self {
        let key = settings.api_key.as_ref().map(Key::new);
        let local = key.is_none() && settings.address.ip().is_loopback();
        let preparing = Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from).max(2));
        let origins = Origins::new(&settings.allow_origins);
        let (slots, timeout) = (settings.slots.max(1), settings.timeout);
        Self { models, began: now(), key, local, slots, preparing, origins, timeout }
    }

    /// Prepares a request on a blocking thread: templates run, schemas are compiled.
    ///
    /// # Errors
    /// Those of the work, or a panic in it.
    pub(crate) async fn prepare<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // Never closed.
        let _turn = self.preparing.acquire().await;
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(ApiError::panicked()))
    }

    /// Returns true if no key is set or the request carries it.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        self.key.as_ref().is_none_or(|key| key.admits(headers))
    }

    /// Returns true if the request may be served under its host name.
    pub(crate) fn is_meant(&self, headers: &HeaderMap) -> bool {
        !self.local || is_for_this_machine(headers)
    }
}

/// Deadline of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) after: Duration,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
