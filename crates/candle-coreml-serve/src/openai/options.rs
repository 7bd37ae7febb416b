//! Options common to text requests: sampling, stopping, streaming, and refused fields.

use candle_coreml::generation::{Bias, Options, Penalties, Processors, Recommended, Sampling};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Maximum number of stop texts per request, and maximum bytes of each.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;

/// Largest bias of a token, and largest penalty, as in OpenAI's interface.
const BIAS: f32 = 100.0;
const PENALTY: f32 = 2.0;

/// Most biases of a request.
const BIASES: usize = 1024;

/// Most answers to one prompt.
const ANSWERS: u64 = 128;

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
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<Map<String, Value>>,
    seed: Option<i64>,
    stop: Option<Value>,
    n: Option<u64>,
    best_of: Option<u64>,
    chat_template_kwargs: Option<Map<String, Value>>,
    reasoning_effort: Option<String>,
    pub(super) response_format: Option<Value>,
    // Refused unless without effect.
    suffix: Option<Value>,
    functions: Option<Value>,
    function_call: Option<Value>,
    modalities: Option<Value>,
    audio: Option<Value>,
    guided_json: Option<Value>,
    guided_regex: Option<Value>,
    guided_choice: Option<Value>,
    guided_grammar: Option<Value>,
    structured_outputs: Option<Value>,
    grammar: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
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

    /// Variables of the chat template.
    pub(super) fn variables(&self) -> Map<String, Value> {
        let mut variables = self.chat_template_kwargs.clone().unwrap_or_default();
        match self.reasoning_effort.as_deref() {
            None => {}
            Some("none") => _ = variables.entry("enable_thinking").or_insert(false.into()),
            Some(effort) => _ = variables.entry("reasoning_effort").or_insert(effort.into()),
        }
        variables
    }

    /// The first field that asks for more than the best token.
    pub(super) fn needs_probabilities(&self) -> Option<&'static str> {
        let nonzero = |value: Option<f32>| value.is_some_and(|v| v != 0.0);
        let fields = [
            ("temperature", nonzero(self.temperature)),
            ("repetition_penalty", self.repetition_penalty.is_some_and(|p| p != 1.0)),
            ("presence_penalty", nonzero(self.presence_penalty)),
            ("frequency_penalty", nonzero(self.frequency_penalty)),
            ("logit_bias", self.logit_bias.as_ref().is_some_and(|b| !b.is_empty())),
        ];
        fields.into_iter().find_map(|(param, asked)| asked.then_some(param))
    }

    /// Number of answers to each prompt.
    pub(super) fn answers(&self) -> usize {
        self.n.unwrap_or(1) as usize
    }

    /// Refuses unsupported fields.
    fn check(&self) -> Result<(), ApiError> {
        if self.n.is_some_and(|n| !(1..=ANSWERS).contains(&n)) {
            return Err(ApiError::field("n", format!("expected 1 to {ANSWERS}")));
        }
        if self.best_of.is_some_and(|best| best != self.n.unwrap_or(1)) {
            return Err(ApiError::field("best_of", "only as many as `n` are supported"));
        }
        let text_only = |value: &Value| value == &serde_json::json!(["text"]);
        for (param, value) in [
            ("suffix", &self.suffix),
            ("functions", &self.functions),
            ("function_call", &self.function_call),
            ("audio", &self.audio),
            ("modalities", &self.modalities),
            ("guided_json", &self.guided_json),
            ("guided_regex", &self.guided_regex),
            ("guided_choice", &self.guided_choice),
            ("guided_grammar", &self.guided_grammar),
            ("structured_outputs", &self.structured_outputs),
            ("grammar", &self.grammar),
        ] {
            if value.as_ref().is_some_and(|v| !empty(v) && !text_only(v)) {
                return Err(ApiError::field(param, "is not supported"));
            }
        }
        Ok(())
    }

    /// Penalties and biases; none where they have no effect.
    fn processors(&self, vocab: usize) -> Result<Processors, ApiError> {
        let mut processors = Processors::default();
        let presence = within(self.presence_penalty, 0.0, "presence_penalty", -PENALTY, PENALTY)?;
        let frequency = within(self.frequency_penalty, 0.0, "frequency_penalty", -PENALTY, PENALTY)?;
        if presence != 0.0 || frequency != 0.0 {
            processors.push(Penalties::new(presence, frequency));
        }
        let biases = self.logit_bias.iter().flatten();
        if biases.clone().count() > BIASES {
            return Err(ApiError::field("logit_bias", format!("at most {BIASES} tokens")));
        }
        let bias = |(token, bias): (&String, &Value)| {
            let token = token.parse().ok().filter(|&t: &u32| (t as usize) < vocab);
            let bias = bias.as_f64().map(|b| b as f32).filter(|b| b.abs() <= BIAS);
            let message = format!("expected ids of tokens below {vocab} with numbers from -{BIAS} to {BIAS}");
            // As in OpenAI's interface, the least one is a ban.
            let ban = |b: f32| if b <= -BIAS { f32::NEG_INFINITY } else { b };
            token.zip(bias.map(ban)).ok_or_else(|| ApiError::field("logit_bias", message))
        };
        let biases = biases.map(bias).collect::<Result<Vec<_>, _>>()?;
        if !biases.is_empty() {
            processors.push(Bias::new(biases));
        }
        Ok(processors)
    }

    /// Converts to the library's options. The default token limit is `usual_tokens`; what the request leaves out is as the
    /// model recommends, else as in OpenAI's API.
    /// `nothing` allows an answer of no tokens; `vocab` is the number of the model's tokens.
    pub(super) fn options(
        &self,
        usual_tokens: usize,
        nothing: bool,
        vocab: usize,
        recommended: &Recommended,
    ) -> Result<Options, ApiError> {
        self.check()?;
        let (param, limit) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(n), _) => ("max_completion_tokens", Some(n)),
            (None, n) => ("max_tokens", n),
        };
        let max_tokens = match limit {
            Some(0) if !nothing => return Err(ApiError::field(param, "expected at least 1")),
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
            processors: self.processors(vocab)?,
            stop: self.stop()?,
            // Generation stops at the end of the context, and reports it.
            slide: false,
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
        serde_json::from_value::<Common>(value).expect("the right types").options(
            16,
            false,
            300,
            &Recommended::default(),
        )
    }

    #[test]
    fn what_a_request_leaves_out_is_as_the_model_recommends() {
        let common: Common = serde_json::from_value(json!({"top_p": 0.5})).expect("the right types");
        let recommended =
            Recommended { temperature: Some(0.0), top_k: Some(7), top_p: Some(0.9), ..Recommended::default() };
        let sampling = common.options(16, false, 300, &recommended).expect("fine").sampling;
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.0, 7, 0.5));
        assert_eq!(common.options(16, false, 300, &Recommended::default()).expect("fine").sampling.temperature, 1.0);
    }

    #[test]
    fn fields_become_options() {
        let options = read(json!({
            "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -1,
            "stop": ["a", "b"], "presence_penalty": 0.5, "logit_bias": {"1": 2, "299": -100}, "n": 3, "best_of": 3,
        }))
        .expect("fine");
        assert_eq!((options.max_tokens, options.processors.len(), options.slide), (7, 2, false));
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
            "n": 1, "best_of": 1, "suffix": null, "logit_bias": {}, "functions": [],
            "frequency_penalty": 0, "presence_penalty": 0.0, "stop": null,
            "modalities": ["text"], "user": "x", "store": true,
        }))
        .map(|options| assert!(options.processors.is_empty()))
        .expect("nothing is asked for");
        for (param, value) in [
            ("n", json!(0)),
            ("n", json!(129)),
            ("best_of", json!(3)),
            ("suffix", json!("x")),
            ("logit_bias", json!({"1": 101})),
            ("logit_bias", json!({"300": 1})),
            ("logit_bias", json!({"a": 1})),
            ("logit_bias", json!({"1": null})),
            ("frequency_penalty", json!(2.5)),
            ("presence_penalty", json!(-3)),
            ("functions", json!([{}])),
            ("function_call", json!("auto")),
            ("guided_json", json!({"type": "object"})),
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
