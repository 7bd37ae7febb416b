//! What stands between logits and tokens: log-probabilities, processors, constraints.

use candle_coreml::generation::{Bias, Message, Options, Penalties, Probabilities, Processors, Sampling, Step};

use super::model;

const QUESTION: &str = "Spell \"pepper\" backwards.";

fn ids(model: &candle_coreml::QwenModel) -> Vec<u32> {
    let text = model.chat_text(&[Message::user(QUESTION)]).expect("a template");
    model.tokenize(&text).expect("ids")
}

#[test]
fn log_probabilities_are_those_of_the_logits_and_sum_to_one() {
    let mut model = model();
    let prompt = ids(&model);
    let vocab = model.pipeline().dimensions().vocab;
    let sampling = Sampling { temperature: 1.5, ..Sampling::default() };
    let options = Options { max_tokens: 12, probabilities: Some(vocab), sampling, ..Options::default() };
    let mut steps = 0;
    let check = |step: &Step| {
        let found = step.probabilities.as_ref().expect("asked for");
        let sum: f64 = found.top.iter().map(|t| f64::from(t.log_probability).exp()).sum();
        // 272 roundings of f32.
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert!(found.top.is_sorted_by(|a, b| a.log_probability >= b.log_probability));
        assert_eq!(found.chosen.token, step.token);
        let largest = step.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(step.logits[found.top[0].token as usize], largest);
        steps += 1;
    };
    model.generate_tokens(&prompt, options, check).expect("an answer");
    assert!(steps > 3);

    // The prompt's are those of the same tokens, forced one by one.
    let options = Options { max_tokens: 0, probabilities: Some(3), prompt_probabilities: true, ..Options::default() };
    let found = model.generate_tokens(&prompt, options, |_| panic!("no token was asked for")).expect("a prompt");
    assert!(found.tokens.is_empty());
    model.reset_states();
    let forced = Options { force: prompt[1..].to_vec(), ..Options::default() };
    let mut expected = Vec::new();
    let push = |step: &Step| expected.push(Probabilities::of(&step.logits, step.token, 3));
    model.generate_tokens(&prompt[..1], forced, push).expect("an answer");
    assert_eq!(found.prompt_probabilities, expected[..prompt.len() - 1]);
}

#[test]
fn penalties_and_biases_choose_what_their_formula_says() {
    let mut model = model();
    let prompt = ids(&model);
    let (presence, frequency) = (15.0, 5.0);
    let mut processors = Processors::default();
    processors.push(Penalties::new(presence, frequency));
    processors.push(Bias::new([(b'e'.into(), 1.25)]));
    let options = Options { max_tokens: 24, processors, ..Options::default() };
    let (mut counts, mut changed) = (vec![0u16; 272], 0);
    let check = |step: &Step| {
        let penalized = |(token, &logit): (usize, &f32)| {
            let count = f32::from(counts[token]);
            let bias = if token == usize::from(b'e') { 1.25 } else { 0.0 };
            logit - (presence * f32::from(u8::from(count > 0.0)) + frequency * count) + bias
        };
        let values: Vec<f32> = step.logits.iter().enumerate().map(penalized).collect();
        let best = |all: &[f32]| (0..all.len()).rev().max_by(|&a, &b| all[a].total_cmp(&all[b])).expect("logits");
        assert_eq!(best(&values), step.token as usize);
        changed += usize::from(best(&step.logits) != step.token as usize);
        counts[step.token as usize] += 1;
    };
    model.generate_tokens(&prompt, options, check).expect("an answer");
    assert!(changed > 0, "the model alone would have said the same");
}

#[cfg(feature = "constrained")]
#[test]
fn constrained_answers_are_in_the_form_and_end_by_themselves() {
    use candle_coreml::generation::{Constraint, Grammar, StopReason};
    let schema = serde_json::json!({
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 12}, "sure": {"type": "boolean"}},
        "required": ["capital", "sure"], "additionalProperties": false,
    });
    let mut model = model();
    let grammar = Grammar::json_schema(&schema).expect("a schema");
    let mut processors = Processors::default();
    processors.push(Constraint::new(model.tokenizer(), &grammar).expect("a constraint"));
    for seed in 0..8 {
        let sampling = Sampling { temperature: seed as f32 / 4.0, seed, ..Sampling::default() };
        let options = Options { max_tokens: 200, processors: processors.clone(), sampling, ..Options::default() };
        let answer = model.chat(&[Message::user("What is the capital of Peru?")], options, |_| {}).expect("an answer");
        if answer.stop_reason == StopReason::MaxTokens {
            continue;
        }
        assert_eq!(answer.stop_reason, StopReason::EndOfText);
        let found: serde_json::Value = serde_json::from_str(&answer.text).expect("JSON");
        assert!(
            found["capital"].is_string() && found["sure"].is_boolean() && found.as_object().map(|o| o.len()) == Some(2)
        );
    }
}
