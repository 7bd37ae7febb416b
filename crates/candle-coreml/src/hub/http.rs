//! Requests to the hub: redirects, the token's scope, retries.
//!
//! The paths follow the Hugging Face hub's API, as used by its client library `huggingface_hub`.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::HeaderMap;

use coreml_format::task;

use super::error::HubError;
use super::progress::{Event, Observer};
use super::retry::RetryPolicy;
use crate::net::{tls, url};

const MOST_REDIRECTS: usize = 10;
/// Maximum size of a body read into memory, in bytes.
const LARGEST_DOCUMENT: u64 = 32 << 20;
const CHUNK: usize = 64 << 10;
/// Time between two questions whether a task goes on.
pub(super) const BREATH: Duration = Duration::from_millis(50);
/// Fewer bytes per window of [`Watch`] count as a broken connection.
const LEAST_BYTES: usize = 1 << 10;

/// A failed attempt.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Retriable, after the delay that the server requests.
    Passing { cause: String, after: Option<Duration> },
    /// Not retriable.
    Lasting(HubError),
}

impl Failure {
    pub(crate) fn passing(cause: impl Into<String>) -> Self {
        Self::Passing { cause: cause.into(), after: None }
    }
}

impl From<HubError> for Failure {
    fn from(e: HubError) -> Self {
        Self::Lasting(e)
    }
}

/// A response with status 2xx, or 416: the server does not have the requested range.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: ureq::Body,
    /// The final URL, after redirects.
    pub(crate) url: String,
}

impl Answer {
    /// A header value, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Detects servers that trickle bytes, which could stall a download forever.
pub(crate) struct Watch {
    since: Instant,
    window: Duration,
    bytes: usize,
}

impl Watch {
    /// Counts bytes; an error if a whole window brought almost none.
    pub(crate) fn received(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.since.elapsed() < self.window {
            return Ok(());
        }
        let received = std::mem::take(&mut self.bytes);
        self.since = Instant::now();
        if received >= LEAST_BYTES { Ok(()) } else { Err(format!("only {received} bytes came in {:?}", self.window)) }
    }
}

/// A client for one endpoint.
pub(crate) struct Client {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
    pub(crate) retry: RetryPolicy,
    pub(crate) observer: Arc<dyn Observer>,
    patience: Duration,
}

/// Settings of a [`Client`].
#[derive(Clone)]
pub(crate) struct ClientSettings {
    pub(crate) endpoint: String,
    pub(crate) token: Option<String>,
    pub(crate) retry: RetryPolicy,
    pub(crate) observer: Arc<dyn Observer>,
    /// Longest silence of the server.
    pub(crate) patience: Duration,
}

impl Client {
    pub(crate) fn new(settings: ClientSettings) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let Some((scheme, ..)) = url::origin(&endpoint) else {
            return Err(HubError::Settings(format!("the endpoint `{endpoint}` (HF_ENDPOINT) is not an http(s) URL")));
        };
        let agent = ureq::Agent::config_builder()
            .tls_config(tls::config(scheme == "https").map_err(|e| HubError::Settings(e.to_owned()))?)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("candle-coreml/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(settings.patience))
            .timeout_connect(Some(settings.patience))
            .timeout_recv_response(Some(settings.patience))
            .timeout_per_read(Some(settings.patience))
            .timeout_per_write(Some(settings.patience))
            .build()
            .new_agent();
        let ClientSettings { token, retry, observer, patience, .. } = settings;
        Ok(Self { agent, endpoint, token, retry, observer, patience })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Starts a watch for one body.
    pub(crate) fn watch(&self) -> Watch {
        Watch { since: Instant::now(), window: self.patience.saturating_mul(2), bytes: 0 }
    }

    /// One attempt at a GET; follows redirects. The token goes only to the endpoint's own host.
    pub(crate) fn get(&self, what: &str, start: &str, headers: &[(&str, String)]) -> Result<Answer, Failure> {
        task::check().map_err(|_| HubError::Stopped(what.to_owned()))?;
        let answer = |message| Failure::Lasting(HubError::Answer { what: what.to_owned(), message });
        let home = url::origin(&self.endpoint);
        let mut at = start.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.agent.get(&at);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| url::origin(&at) == home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| match e {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::TlsRequired => {
                    answer(format!("{at}: {e}"))
                }
                e if tls::is_distrust(&e) => answer(format!("{at}: the server's certificate is not trusted: {e}")),
                e => Failure::passing(format!("{at}: {e}")),
            })?;
            let (parts, body) = response.into_parts();
            let status = parts.status.as_u16();
            let redirect = parts.headers.get("location").and_then(|v| v.to_str().ok());
            if let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, redirect) {
                let next = url::resolve(&at, location)
                    .filter(|n| n.starts_with("https:") || !at.starts_with("https:"))
                    .ok_or_else(|| answer(format!("{at} redirects to `{location}`, which is refused")))?;
                at = next;
                continue;
            }
            if (200..300).contains(&status) || status == 416 {
                return Ok(Answer { status, headers: parts.headers, body, url: at });
            }
            return Err(self.refusal(what, &at, status, &parts.headers));
        }
        Err(answer(format!("{start} redirects more than {MOST_REDIRECTS} times")))
    }

    /// Maps an error status.
    fn refusal(&self, what: &str, url: &str, status: u16, headers: &HeaderMap) -> Failure {
        let header = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let what = what.to_owned();
        match status {
            // Without a token the hub returns 401 for missing models too.
            401 | 403 => {
                let advice = match (header("x-error-message").filter(|m| m.len() < 300), &self.token) {
                    (Some(message), _) => message.to_owned(),
                    (None, None) => "the name is wrong, or the model needs a token (HF_TOKEN)".to_owned(),
                    (None, Some(_)) => "the token may not read it; has its licence been accepted?".to_owned(),
                };
                HubError::Denied { what, status, advice }.into()
            }
            404 | 410 => HubError::NotFound { what, url: url.to_owned() }.into(),
            408 | 425 | 429 | 500.. => {
                let after = header("retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
                Failure::Passing { cause: format!("{url}: HTTP {status}"), after }
            }
            _ => HubError::Answer { what, message: format!("{url}: unexpected HTTP {status}") }.into(),
        }
    }

    /// Retries an attempt according to the policy.
    pub(crate) fn retried<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => self.pause(what, failure, &mut failures)?,
            }
        }
    }

    /// Counts a failure and sleeps, or gives up.
    pub(crate) fn pause(&self, what: &str, failure: Failure, failures: &mut u32) -> Result<(), HubError> {
        let (cause, after) = match failure {
            Failure::Lasting(e) => return Err(e),
            Failure::Passing { cause, after } => (cause, after),
        };
        *failures += 1;
        if *failures >= self.retry.attempts {
            return Err(HubError::Network { what: what.to_owned(), attempts: *failures, cause });
        }
        let delay = self.retry.delay(*failures, after);
        self.observer.event(&Event::Retry { what, cause: &cause, delay });
        tracing::debug!("{what}: {cause}; again in {delay:?}");
        self.sleep(what, delay)
    }

    /// Waits before the next attempt; a task that is cancelled does not wait.
    pub(crate) fn sleep(&self, what: &str, delay: Duration) -> Result<(), HubError> {
        let stopped = |_| HubError::Stopped(what.to_owned());
        task::check().map_err(stopped)?;
        if task::current().is_empty() {
            (self.retry.sleep)(delay);
            return Ok(());
        }
        let until = Instant::now() + delay;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            (self.retry.sleep)(left.min(BREATH));
            task::check().map_err(stopped)?;
        }
        Ok(())
    }

    /// Gets a JSON document of bounded size, with retries, and the `Link` header.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        url: &str,
    ) -> Result<(T, Option<String>), HubError> {
        self.retried(what, || {
            let answer = self.get(what, url, &[])?;
            let link = answer.header("link").map(str::to_owned);
            let fail = |message| Failure::Lasting(HubError::Answer { what: what.to_owned(), message });
            let (mut text, mut watch) = (Vec::new(), self.watch());
            let mut body = answer.body.into_reader().take(LARGEST_DOCUMENT + 1);
            loop {
                let at = text.len();
                text.resize(at + CHUNK, 0);
                let n = body.read(&mut text[at..]).map_err(|e| Failure::passing(format!("{url}: {e}")))?;
                text.truncate(at + n);
                if n == 0 {
                    break;
                }
                watch.received(n).map_err(|slow| Failure::passing(format!("{url}: {slow}")))?;
            }
            if text.len() as u64 > LARGEST_DOCUMENT {
                return Err(fail(format!("{url}: the answer is larger than {LARGEST_DOCUMENT} bytes")));
            }
            let value = serde_json::from_slice(&text)
                .map_err(|e| fail(format!("{}: the answer is not what the hub's API documents: {e}", answer.url)))?;
            Ok((value, link))
        })
    }
}
