//! A remote model, through the Anthropic Messages API: the last resort when no local model can answer.
//!
//! Nothing is sent unless the settings allow it ([`RemoteSettings::enabled`]) and the program requests it.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use crate::backend::{BackendDevice, CancelHandle, GeneratorInfo, RequestStats, Stats, TextGeneration};
use crate::error::{Error, Result};
use crate::generation::{Message, Options, Step, StopReason, Summary};
use crate::net::{tls, url};
use crate::settings::RemoteSettings;

mod api;
mod error;
mod exchange;
mod sse;

pub use error::RemoteError;

use api::{Body, Usage};
use exchange::{News, exchange};

/// Polling interval for cancellation while the server is silent.
const POLL: Duration = Duration::from_millis(50);
/// Maximum number of buffered events.
const WAITING: usize = 64;

/// A conversation with a remote model.
///
/// The server's tokens are unknown: every [`Step`] is a piece of text with token 0 and without logits, and [`Stats`]
/// report the server's counts.
pub struct RemoteGenerator {
    agent: ureq::Agent,
    url: String,
    model: String,
    key: SecretString,
    cancel: CancelHandle,
    stats: Stats,
}

impl std::fmt::Debug for RemoteGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteGenerator").field("url", &self.url).field("model", &self.model).finish_non_exhaustive()
    }
}

/// Returns true if a host is this machine.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl RemoteGenerator {
    /// A client of the configured server. Sends nothing yet.
    ///
    /// # Errors
    /// [`RemoteError::Settings`] if the URL is not `https` (plain `http` only to this machine), the key has invalid
    /// characters, or no model is set.
    pub fn new(settings: &RemoteSettings, key: &SecretString) -> std::result::Result<Self, RemoteError> {
        Self::with_patience(settings, key, Duration::from_secs(120))
    }

    /// [`RemoteGenerator::new`] with a timeout: `patience` is the longest silence of the server.
    ///
    /// # Errors
    /// Same as [`RemoteGenerator::new`].
    pub fn with_patience(
        settings: &RemoteSettings,
        key: &SecretString,
        patience: Duration,
    ) -> std::result::Result<Self, RemoteError> {
        let wrong = |text: String| Err(RemoteError::Settings(text));
        let base = settings.base_url.trim().trim_end_matches('/');
        let Some((scheme, host, _)) = url::origin(base) else {
            return wrong(format!("remote.base_url: expected an https URL, found `{base}`"));
        };
        if scheme == "http" && !is_local(&host) {
            return wrong(format!("remote.base_url: the key is sent over https only, found `{base}`"));
        }
        if settings.model.trim().is_empty() {
            return wrong("remote.model: expected the name of a model, found nothing".to_owned());
        }
        let text = key.expose_secret();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("api_key: expected letters, digits and signs without spaces".to_owned());
        }
        let tls = tls::config(scheme == "https").map_err(|e| RemoteError::Settings(e.to_owned()))?;
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // The key goes only to the host that the user configured.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("candle-coreml/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            url: format!("{base}/v1/messages"),
            model: settings.model.trim().to_owned(),
            key: key.clone(),
            cancel: CancelHandle::default(),
            stats: Stats::default(),
        })
    }

    /// URL of the requests.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts a request; the connection has its own thread, so that waiting for it can be cancelled.
    fn send(&self, body: Vec<u8>) -> Receiver<News> {
        let (sender, receiver) = sync_channel(WAITING);
        let (agent, url, key) = (self.agent.clone(), self.url.clone(), self.key.clone());
        std::thread::spawn(move || {
            if let Err(e) = exchange(&agent, &url, &key, &body, &sender) {
                // Nobody receives if the answer was cancelled.
                let _ = sender.send(News::Failed(e));
            }
        });
        receiver
    }

    fn answer(&mut self, messages: &[Message], options: &Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        let body = Body::new(&self.model, messages, options).ok_or(Error::NoMessages)?;
        let body = serde_json::to_vec(&body).map_err(|e| Error::Request(e.to_string()))?;
        let (started, news) = (Instant::now(), self.send(body));
        let (mut text, mut pieces, mut usage, mut first) = (String::new(), 0, Usage::default(), None);
        options.progress.begin(0);
        let outcome = loop {
            if self.cancel.is_cancelled() || options.cancel.load(std::sync::atomic::Ordering::Relaxed) {
                break Ok(StopReason::Cancelled);
            }
            match news.recv_timeout(POLL) {
                Ok(News::Text(piece)) => {
                    first.get_or_insert_with(|| started.elapsed());
                    text.push_str(&piece);
                    pieces += 1;
                    options.progress.generated(pieces);
                    on_token(&Step { token: 0, text: piece, logits: Vec::new(), probabilities: None });
                }
                Ok(News::Usage(new)) => {
                    usage.input_tokens = usage.input_tokens.max(new.input_tokens);
                    usage.output_tokens = usage.output_tokens.max(new.output_tokens);
                }
                Ok(News::Done(reason)) => break Ok(reason),
                Ok(News::Failed(e)) => break Err(e),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(RemoteError::Broken { cause: "the connection's thread ended".to_owned() });
                }
            }
        };
        self.cancel.clear();
        let (first, whole) = (first.unwrap_or_else(|| started.elapsed()), started.elapsed());
        let summary = Summary {
            tokens: Vec::new(),
            text,
            stop_reason: outcome?,
            prefill_tokens: usage.input_tokens,
            prefill_seconds: first.as_secs_f64(),
            decode_seconds: whole.saturating_sub(first).as_secs_f64(),
            decode_steps: usage.output_tokens,
            prompt_probabilities: Vec::new(),
            guessed: 0,
        };
        self.stats.turns += 1;
        self.stats.generated_tokens += usage.output_tokens;
        self.stats.context_used = usage.input_tokens + usage.output_tokens;
        self.stats.last = Some(RequestStats {
            prompt_tokens: usage.input_tokens,
            prefilled_tokens: usage.input_tokens,
            prefill_seconds: summary.prefill_seconds,
            generated_tokens: usage.output_tokens,
            decode_steps: usage.output_tokens,
            decode_seconds: summary.decode_seconds,
            dropped_messages: 0,
            stop_reason: summary.stop_reason,
        });
        Ok(summary)
    }
}

impl TextGeneration for RemoteGenerator {
    /// The device is `Auto`, none of this machine. The context length is unknown: 0.
    fn info(&self) -> GeneratorInfo {
        GeneratorInfo {
            device: BackendDevice::Auto,
            engine: "remote",
            model: PathBuf::from(&self.model),
            dtype: "unknown",
            context: 0,
        }
    }

    /// The API supports only conversations: sends the text as a user message.
    fn stream(&mut self, prompt: &str, options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        self.answer(&[Message::user(prompt)], &options, on_token)
    }

    fn chat(&mut self, messages: &[Message], options: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        self.answer(messages, &options, on_token)
    }

    fn reset(&mut self) {
        self.stats.context_used = 0;
    }

    fn stats(&self) -> Stats {
        self.stats.clone()
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    fn set_cancel_handle(&mut self, handle: CancelHandle) {
        self.cancel = handle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_nowhere_in_the_clear() {
        let of = |base_url: &str, model: &str, key: &str| {
            let settings = RemoteSettings { base_url: base_url.to_owned(), model: model.to_owned(), enabled: true };
            RemoteGenerator::new(&settings, &SecretString::from(key))
        };
        assert_eq!(of("http://127.0.0.1:9/", "m", "k").expect("this machine").url(), "http://127.0.0.1:9/v1/messages");
        assert!(of("http://localhost", "m", "k").is_ok() && of("http://[::1]:8080", "m", "k").is_ok());
        for (base, model, key, part) in [
            ("http://example.com", "m", "k", "https only"),
            ("http://127.0.0.1.example.com", "m", "k", "https only"),
            ("ftp://example.com", "m", "k", "https URL"),
            ("", "m", "k", "https URL"),
            ("http://localhost", " ", "k", "remote.model"),
            ("http://localhost", "m", "", "api_key"),
            ("http://localhost", "m", "sk hidden", "api_key"),
            ("http://localhost", "m", "sk-hidden\r\nx: y", "api_key"),
        ] {
            let error = of(base, model, key).expect_err(part);
            assert!(error.to_string().contains(part) && !error.to_string().contains("hidden"), "{error}");
            assert_eq!(error.kind(), "settings");
        }
    }
}
