//! Options common to text requests: sampling, stopping, streaming, and refused fields.

use candle_coreml::generation::{Options, Recommended, Sampling};
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;

/// Maximum number of stop texts per request, and maximum bytes of each.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;

/// Fields common to both kinds of requests. `top_k`, `min_p`, `repetition_penalty` and `chat_template_kwargs` are
/// extensions, named as in other servers.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Common {
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<Value>,
    chat_template_kwargs: Option<TemplateOptions>,
    // Refused unless without effect.
    n: Option<u64>,
    best_of: Option<u64>,
    echo: Option<bool>,
    suffix: Option<Value>,
    logprobs: Option<Value>,
    top_logprobs: Option<Value>,
    logit_bias: Option<Value>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    tools: Option<Value>,
    tool_choice: Option<Value>,
    functions: Option<Value>,
    response_format: Option<Value>,
    modalities: Option<Value>,
    audio: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct TemplateOptions {
    enable_thinking: Option<bool>,
}

/// Returns true if the value has no effect.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == "none",
        Value::Bool(true) => false,
    }
}

fn within(value: Option<f32>, usual: f32, param: &'static str, low: f32, high: f32) -> Result<f32, ApiError> {
    let value = value.unwrap_or(usual);
    // NaN is outside every range.
    if value >= low && value <= high {
        return Ok(value);
    }
    Err(ApiError::field(param, format!("expected {low} to {high}, found {value}")))
}

impl Common {
    /// Returns true if the stream ends with a usage chunk.
    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|s| s.include_usage).unwrap_or(false)
    }

    /// Refuses unsupported fields.
    fn check(&self) -> Result<(), ApiError> {
        for (param, value) in [("n", self.n), ("best_of", self.best_of)] {
            if value.is_some_and(|n| n != 1) {
                return Err(ApiError::field(param, "only 1 is supported"));
            }
        }
        for (param, value) in
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)]
        {
            if value.is_some_and(|v| v != 0.0) {
                return Err(ApiError::field(param, "only 0 is supported; there is `repetition_penalty`"));
            }
        }
        if self.echo == Some(true) {
            return Err(ApiError::field("echo", "is not supported"));
        }
        let text_only = |value: &Value| value == &serde_json::json!(["text"]);
        for (param, value) in [
            ("suffix", &self.suffix),
            ("logprobs", &self.logprobs),
            ("top_logprobs", &self.top_logprobs),
            ("logit_bias", &self.logit_bias),
            ("tools", &self.tools),
            ("functions", &self.functions),
            ("audio", &self.audio),
            ("modalities", &self.modalities),
        ] {
            if value.as_ref().is_some_and(|v| !empty(v) && !text_only(v)) {
                return Err(ApiError::field(param, "is not supported"));
            }
        }
        // `auto` without tools has no effect.
        if self.tool_choice.as_ref().is_some_and(|v| !empty(v) && v != "auto") {
            return Err(ApiError::field("tool_choice", "tools are not supported"));
        }
        if self.response_format.as_ref().is_some_and(|v| !empty(v) && v["type"] != "text") {
            return Err(ApiError::field("response_format", "only {\"type\": \"text\"} is supported"));
        }
        Ok(())
    }

    /// Converts to the library's options. The default token limit is `usual_tokens`; what the request leaves out is as the
    /// model recommends, else as in OpenAI's API.
    pub(super) fn options(&self, usual_tokens: usize, recommended: &Recommended) -> Result<Options, ApiError> {
        self.check()?;
        let (param, limit) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(n), _) => ("max_completion_tokens", Some(n)),
            (None, n) => ("max_tokens", n),
        };
        let max_tokens = match limit {
            Some(0) => return Err(ApiError::field(param, "expected at least 1")),
            Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
            None => usual_tokens,
        };
        let sampling = Sampling {
            temperature: within(self.temperature, recommended.temperature.unwrap_or(1.0), "temperature", 0.0, 2.0)?,
            top_p: within(self.top_p, recommended.top_p.unwrap_or(1.0), "top_p", 0.0, 1.0)?,
            min_p: within(self.min_p, recommended.min_p.unwrap_or(0.0), "min_p", 0.0, 1.0)?,
            repetition_penalty: within(
                self.repetition_penalty,
                recommended.repetition_penalty.unwrap_or(1.0),
                "repetition_penalty",
                0.01,
                100.0,
            )?,
            top_k: self.top_k.or(recommended.top_k).unwrap_or(0),
            seed: self.seed.map_or_else(rand::random, i64::cast_unsigned),
        };
        Ok(Options {
            max_tokens,
            sampling,
            stop: self.stop()?,
            // Generation stops at the end of the context, and reports it.
            slide: false,
            thinking: self.chat_template_kwargs.as_ref().and_then(|k| k.enable_thinking),
            ..Options::default()
        })
    }

    fn stop(&self) -> Result<Vec<String>, ApiError> {
        let wrong = || ApiError::field("stop", "expected a string or an array of strings");
        let texts: Vec<String> = match &self.stop {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(all)) => {
                all.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(wrong()),
        };
        if texts.len() > STOPS || texts.iter().any(|t| t.is_empty() || t.len() > STOP_BYTES) {
            let message = format!("expected at most {STOPS} texts of 1 to {STOP_BYTES} bytes");
            return Err(ApiError::field("stop", message));
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Options, ApiError> {
        serde_json::from_value::<Common>(value).expect("the right types").options(16, &Recommended::default())
    }

    #[test]
    fn what_a_request_leaves_out_is_as_the_model_recommends() {
        let common: Common = serde_json::from_value(json!({"top_p": 0.5})).expect("the right types");
        let recommended =
            Recommended { temperature: Some(0.0), top_k: Some(7), top_p: Some(0.9), ..Recommended::default() };
        let sampling = common.options(16, &recommended).expect("fine").sampling;
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.0, 7, 0.5));
        assert_eq!(common.options(16, &Recommended::default()).expect("fine").sampling.temperature, 1.0);
    }

    #[test]
    fn fields_become_options() {
        let options = read(json!({
            "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -1,
            "stop": ["a", "b"], "chat_template_kwargs": {"enable_thinking": false},
        }))
        .expect("fine");
        assert_eq!((options.max_tokens, options.thinking, options.slide), (7, Some(false), false));
        assert_eq!(options.sampling.seed, u64::MAX);
        assert_eq!((options.sampling.temperature, options.sampling.top_p), (0.5, 0.9));
        assert_eq!(options.stop, ["a", "b"]);
        let usual = read(json!({"stop": "x"})).expect("fine");
        assert_eq!((usual.max_tokens, usual.sampling.temperature), (16, 1.0));
        assert_eq!(usual.stop, ["x"]);
        let again = read(json!({})).expect("fine");
        assert_ne!(usual.sampling.seed, again.sampling.seed, "without a seed, answers differ");
    }

    #[test]
    fn what_asks_for_nothing_is_taken_and_what_can_not_be_done_is_refused_by_name() {
        read(json!({
            "n": 1, "best_of": 1, "echo": false, "suffix": null, "logprobs": false, "logit_bias": {}, "tools": [],
            "tool_choice": "auto", "frequency_penalty": 0, "presence_penalty": 0.0, "stop": null,
            "response_format": {"type": "text"}, "modalities": ["text"], "user": "x", "store": true,
        }))
        .expect("nothing is asked for");
        for (param, value) in [
            ("n", json!(2)),
            ("best_of", json!(3)),
            ("echo", json!(true)),
            ("suffix", json!("x")),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(2)),
            ("logit_bias", json!({"1": 2})),
            ("frequency_penalty", json!(0.5)),
            ("presence_penalty", json!(-1)),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("functions", json!([{}])),
            ("response_format", json!({"type": "json_object"})),
            ("modalities", json!(["audio"])),
            ("temperature", json!(2.5)),
            ("temperature", json!(-0.1)),
            ("top_p", json!(1.5)),
            ("min_p", json!(-1)),
            ("repetition_penalty", json!(0)),
            ("max_tokens", json!(0)),
            ("max_completion_tokens", json!(0)),
            ("stop", json!(3)),
            ("stop", json!([1])),
            ("stop", json!("")),
            ("stop", Value::Array(vec![json!("x"); STOPS + 1])),
            ("stop", json!("x".repeat(STOP_BYTES + 1))),
        ] {
            let error = read(json!({param: value})).expect_err(param);
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{value}");
        }
    }
}
