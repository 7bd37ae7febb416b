//! Answers: the same text as the library's, in OpenAI's format.

use candle_coreml::LanguageModel;
use candle_coreml::generation::{Message, Options};
use serde_json::{Value, json};

mod common;

use common::{folder, joined, question, serve, settings, with};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn usage(body: &Value) -> [u64; 4] {
    let usage = &body["usage"];
    let number = |v: &Value| v.as_u64().expect("a number");
    [
        number(&usage["prompt_tokens"]),
        number(&usage["completion_tokens"]),
        number(&usage["total_tokens"]),
        number(&usage["prompt_tokens_details"]["cached_tokens"]),
    ]
}

#[test]
fn whole_and_streamed_answers_are_the_library_s() {
    let server = serve(settings());
    let mut model = LanguageModel::load_from_directory(folder("tiny-qwen3"), None).expect("the shipped model");
    let messages = [Message::user("What is the capital of Peru?")];
    let prompt = model.tokenize(&model.chat_text(&messages).expect("a template")).expect("tokens");
    let expected = model.generate_tokens(&prompt, Options::default(), |_| {}).expect("an answer");
    assert_eq!(expected.text, "Lima");
    let (prompt, tokens) = (prompt.len() as u64, expected.tokens.len() as u64);

    let asked = question("What is the capital of Peru?");
    let whole = server.ok(CHAT, &asked);
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "tiny-qwen3");
    assert!(whole["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    assert_eq!(whole["choices"][0]["message"], json!({"role": "assistant", "content": "Lima", "refusal": null}));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(usage(&whole), [prompt, tokens, prompt + tokens, 0]);

    let streamed = with(asked.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = server.events(CHAT, &streamed);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(joined(&events), ("Lima".to_owned(), Some("stop".to_owned())));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).expect("JSON")).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c["id"] == chunks[0]["id"]));
    let (last, others) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    // The whole prompt was cached, but its last token must run again.
    assert_eq!(usage(last), [prompt, tokens, prompt + tokens, prompt - 1]);
    assert!(others.iter().all(|c| c["usage"].is_null()));
    // No usage chunk without the option.
    let events = server.events(CHAT, &with(asked, json!({"stream": true})));
    assert!(events.iter().all(|e| !e.contains("usage")), "{events:?}");

    let expected = model.generate("2 + 2 =", 16, 0.0).expect("a text");
    let body = json!({"model": "tiny-qwen3", "prompt": "2 + 2 =", "temperature": 0});
    let whole = server.ok(TEXT, &body);
    assert_eq!(
        (whole["object"].as_str(), whole["choices"][0]["text"].as_str()),
        (Some("text_completion"), Some(&*expected))
    );
    let ids = model.tokenize("2 + 2 =").expect("tokens");
    assert_eq!(server.ok(TEXT, &with(body.clone(), json!({"prompt": ids})))["choices"][0]["text"], *expected);
    assert_eq!(joined(&server.events(TEXT, &with(body, json!({"stream": true})))).0, expected);
}

#[test]
fn answers_end_at_stop_texts_and_limits() {
    let server = serve(settings());
    // Tokens are single letters, so these texts span several.
    for (stop, text, reason) in [
        (json!("im"), "L", "stop"),
        (json!(["zzz", "ma"]), "Li", "stop"),
        (json!("Lima"), "", "stop"),
        // A partial match of a stop text is held back, then released.
        (json!(["mat"]), "Lima", "stop"),
    ] {
        let asked = with(question("What is the capital of Peru?"), json!({"stop": stop}));
        let whole = server.ok(CHAT, &asked);
        let choice = &whole["choices"][0];
        assert_eq!(
            (choice["message"]["content"].as_str(), choice["finish_reason"].as_str()),
            (Some(text), Some(reason))
        );
        let events = server.events(CHAT, &with(asked, json!({"stream": true})));
        assert_eq!(joined(&events), (text.to_owned(), Some(reason.to_owned())), "{stop}");
    }
    for limit in ["max_tokens", "max_completion_tokens"] {
        let whole = server.ok(CHAT, &with(question("What is the capital of Peru?"), json!({limit: 2})));
        assert_eq!(whole["choices"][0]["message"]["content"], "Li");
        assert_eq!((&whole["choices"][0]["finish_reason"], usage(&whole)[1]), (&json!("length"), 2));
    }
}

#[test]
fn a_seed_makes_random_answers_repeatable() {
    let server = serve(settings());
    let ask = |seed: i64| {
        let body = json!({"prompt": "Tell", "temperature": 2, "max_tokens": 24, "seed": seed});
        server.ok(TEXT, &body)["choices"][0]["text"].as_str().expect("a text").to_owned()
    };
    let first = ask(1);
    assert_eq!(ask(1), first);
    assert!((2..8).any(|seed| ask(seed) != first), "six other seeds give the same text");
}

#[test]
fn messages_may_have_parts_and_the_newer_role() {
    let server = serve(settings());
    let body = json!({"temperature": 0, "max_tokens": 8, "messages": [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Capital of "}, {"type": "text", "text": "Greece?"}]},
    ]});
    let plain = json!({"temperature": 0, "max_tokens": 8, "messages": [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "Capital of Greece?"},
    ]});
    let (one, other) = (server.ok(CHAT, &body), server.ok(CHAT, &plain));
    assert_eq!(one["choices"][0]["message"], other["choices"][0]["message"]);
    assert_eq!(usage(&one)[..3], usage(&other)[..3]);
}

#[test]
fn conversations_do_not_mix_and_run_only_what_is_new() {
    let server = serve(common::Settings { slots: 2, ..settings() });
    let mut alone =
        [0, 1].map(|_| LanguageModel::load_from_directory(folder("tiny-qwen3"), None).expect("the shipped model"));
    let mut talks: [Vec<Message>; 2] = Default::default();
    let mut before = [0, 0];
    for questions in [["12 + 30 =", "Capital of Greece?"], ["And 5 + 6?", "Capital of Peru?"], ["7 + 1 =", "9 - 2 ="]] {
        for (i, asked) in questions.into_iter().enumerate() {
            talks[i].push(Message::user(asked));
            let expected = alone[i].chat(&talks[i], Options { max_tokens: 24, ..Options::default() }, |_| {});
            let expected = expected.expect("an answer").text;
            let body = json!({"messages": talks[i], "temperature": 0, "max_tokens": 24});
            let answer = server.ok(CHAT, &body);
            assert_eq!(answer["choices"][0]["message"]["content"], *expected, "{asked}");
            let [prompt, _, _, cached] = usage(&answer);
            assert!(cached >= before[i] && (cached > 0) == (before[i] > 0), "{asked}: {answer}");
            before[i] = prompt;
            talks[i].push(Message::assistant(expected));
        }
    }
}

#[test]
fn callers_at_once_get_their_own_answers() {
    let server = serve(common::Settings { slots: 3, ..settings() });
    let questions: Vec<String> = std::fs::read_to_string(folder("tiny-qwen3").join("heldout.jsonl"))
        .expect("questions")
        .lines()
        .take(48)
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["question"].as_str().expect("a text").to_owned())
        .collect();
    let mut model = LanguageModel::load_from_directory(folder("tiny-qwen3"), None).expect("the shipped model");
    let expected: Vec<String> = questions
        .iter()
        .map(|q| model.chat(&[Message::user(q.as_str())], Options::default(), |_| {}).expect("an answer").text)
        .collect();
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (server, questions, expected) = (&server, &questions, &expected);
            scope.spawn(move || {
                for i in (caller..questions.len()).step_by(8) {
                    let asked = with(question(&questions[i]), json!({"stream": caller % 2 == 0}));
                    let text = if caller % 2 == 0 {
                        joined(&server.events(CHAT, &asked)).0
                    } else {
                        server.ok(CHAT, &asked)["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
                    };
                    assert_eq!(text, expected[i], "{}", questions[i]);
                }
            });
        }
    });
    assert_eq!(server.figure("candle_coreml_answers_total{model=\"tiny-qwen3\",end=\"stop\"}"), 48.0);
    assert_eq!(server.figure("candle_coreml_time_to_first_token_seconds_count{model=\"tiny-qwen3\"}"), 48.0);
}
