//! Prometheus metrics, in the OpenMetrics text format.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use candle_coreml::generation::{StopReason, Summary};
use candle_coreml::nonblocking::Watch;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Content type of `/metrics`.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    path: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    model: String,
    end: &'static str,
}

type PerModel<T> = Family<ModelLabels, T>;
type HistogramPerModel = Family<ModelLabels, Histogram, fn() -> Histogram>;

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    queue: PerModel<Gauge>,
    running: PerModel<Gauge>,
    prompt: PerModel<Counter>,
    cached: PerModel<Counter>,
    generated: PerModel<Counter>,
    answers: Family<EndLabels, Counter>,
    first: HistogramPerModel,
    next: HistogramPerModel,
}

/// Factors of two: 0.5 ms to about 16 s (tokens), 1 ms to about 17 min (first tokens).
fn buckets(from: f64, count: u16) -> Histogram {
    Histogram::new(exponential_buckets(from, 2.0, count))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Self {
            registry: Registry::with_prefix("candle_coreml"),
            requests: Family::default(),
            queue: Family::default(),
            running: Family::default(),
            prompt: Family::default(),
            cached: Family::default(),
            generated: Family::default(),
            answers: Family::default(),
            first: Family::new_with_constructor(|| buckets(0.001, 21)),
            next: Family::new_with_constructor(|| buckets(0.0005, 16)),
        };
        let registry = &mut all.registry;
        registry.register("http_requests", "Requests by path and status", all.requests.clone());
        registry.register("queue_depth", "Requests that wait for a slot", all.queue.clone());
        registry.register("running", "Requests that are computed", all.running.clone());
        registry.register("prompt_tokens", "Tokens of accepted prompts", all.prompt.clone());
        registry.register("cached_prompt_tokens", "Those of them that were in a cache", all.cached.clone());
        registry.register("generated_tokens", "Tokens that were generated", all.generated.clone());
        registry.register("answers", "Answers that ended, by their end", all.answers.clone());
        registry.register("time_to_first_token_seconds", "From request to first token", all.first.clone());
        registry.register("time_per_token_seconds", "From one token to the next", all.next.clone());
        all
    }
}

impl Metrics {
    /// Counts a request; `path` is a route's pattern, so that clients cannot create labels.
    pub(crate) fn request(&self, path: &str, status: u16) {
        self.requests.get_or_create(&RequestLabels { path: path.to_owned(), status }).inc();
    }

    /// Counts encoder tokens.
    pub(crate) fn encoded(&self, model: &str, tokens: usize) {
        self.prompt.get_or_create(&label(model)).inc_by(tokens as u64);
    }

    /// Records the numbers of waiting and running requests.
    pub(crate) fn load(&self, model: &str, waiting: usize, running: usize) {
        let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.queue.get_or_create(&label(model)).set(signed(waiting));
        self.running.get_or_create(&label(model)).set(signed(running));
    }

    /// Renders the metrics.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string is infallible.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

fn label(model: &str) -> ModelLabels {
    ModelLabels { model: model.to_owned() }
}

/// Observer of one language model.
pub(crate) struct ModelWatch {
    model: String,
    metrics: Arc<Metrics>,
    prompt: Counter,
    cached: Counter,
    generated: Counter<u64, AtomicU64>,
    first: Histogram,
    next: Histogram,
}

impl ModelWatch {
    pub(crate) fn new(model: &str, metrics: &Arc<Metrics>) -> Self {
        let labels = label(model);
        Self {
            model: model.to_owned(),
            prompt: metrics.prompt.get_or_create_owned(&labels),
            cached: metrics.cached.get_or_create_owned(&labels),
            generated: metrics.generated.get_or_create_owned(&labels),
            first: metrics.first.get_or_create_owned(&labels),
            next: metrics.next.get_or_create_owned(&labels),
            metrics: metrics.clone(),
        }
    }
}

impl Watch for ModelWatch {
    fn started(&self, prompt: usize, cached: usize) {
        self.prompt.inc_by(prompt as u64);
        self.cached.inc_by(cached as u64);
    }

    fn first_token(&self, after: Duration) {
        self.generated.inc();
        self.first.observe(after.as_secs_f64());
    }

    fn next_token(&self, after: Duration) {
        self.generated.inc();
        self.next.observe(after.as_secs_f64());
    }

    fn ended(&self, end: &candle_coreml::Result<Summary>) {
        let end = match end.as_ref().map(|s| s.stop_reason) {
            Err(_) => "error",
            Ok(StopReason::EndOfText | StopReason::StopText) => "stop",
            Ok(StopReason::MaxTokens | StopReason::WindowFull) => "length",
            Ok(StopReason::Cancelled) => "cancelled",
        };
        self.metrics.answers.get_or_create(&EndLabels { model: self.model.clone(), end }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let metrics = Arc::new(Metrics::default());
        let watch = ModelWatch::new("a\"b", &metrics);
        watch.started(7, 3);
        watch.first_token(Duration::from_millis(3));
        watch.next_token(Duration::from_secs(100));
        watch.ended(&Err(candle_coreml::Error::Busy { limit: 0 }));
        metrics.request("/v1/models", 200);
        metrics.load("a\"b", 2, 1);
        metrics.encoded("e", 5);
        let text = metrics.text();
        for line in [
            r#"candle_coreml_http_requests_total{path="/v1/models",status="200"} 1"#,
            r#"candle_coreml_prompt_tokens_total{model="a\"b"} 7"#,
            r#"candle_coreml_prompt_tokens_total{model="e"} 5"#,
            r#"candle_coreml_cached_prompt_tokens_total{model="a\"b"} 3"#,
            r#"candle_coreml_generated_tokens_total{model="a\"b"} 2"#,
            r#"candle_coreml_answers_total{model="a\"b",end="error"} 1"#,
            r#"candle_coreml_queue_depth{model="a\"b"} 2"#,
            r#"candle_coreml_running{model="a\"b"} 1"#,
            r#"candle_coreml_time_to_first_token_seconds_bucket{le="0.004",model="a\"b"} 1"#,
            r#"candle_coreml_time_to_first_token_seconds_bucket{le="0.002",model="a\"b"} 0"#,
            r#"candle_coreml_time_per_token_seconds_count{model="a\"b"} 1"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
