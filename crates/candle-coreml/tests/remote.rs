//! The remote fallback against a Messages API server.
#![cfg(feature = "remote")]

use std::time::Duration;

use candle_coreml::Error;
use candle_coreml::backend::TextGeneration;
use candle_coreml::generation::{Message, Options, StopReason, Summary};
use candle_coreml::remote::{RemoteError, RemoteGenerator};
use candle_coreml::settings::RemoteSettings;
use secrecy::SecretString;

mod messages_server;
use messages_server::{Answer, Server, begin, delta, end, event, refusal, saying, stream};

const KEY: &str = "sk-ant-secret-0123456789";

fn client(url: &str) -> RemoteGenerator {
    let settings = RemoteSettings { enabled: true, model: "some-model".to_owned(), base_url: url.to_owned() };
    RemoteGenerator::with_patience(&settings, &SecretString::from(KEY), Duration::from_secs(20)).expect("settings")
}

fn ask(generator: &mut RemoteGenerator) -> candle_coreml::Result<Summary> {
    let messages = [
        Message { role: "system".to_owned(), content: "Be brief.".to_owned() },
        Message::user("Hello?"),
        Message::assistant("Yes?"),
        Message::user("What is the capital of Japan?"),
    ];
    generator.chat(&messages, Options::default(), &mut |_| {})
}

/// The error caused by a response. Its text never contains the key.
fn failure(answer: Answer) -> RemoteError {
    let server = Server::start(vec![answer]);
    match ask(&mut client(&server.url())).expect_err("a failure") {
        Error::Remote(e) => {
            assert!(!format!("{e} {e:?}").contains(KEY), "{e}");
            e
        }
        other => panic!("{other}"),
    }
}

#[test]
fn an_answer_streams_and_is_counted() {
    let server = Server::start(vec![stream(saying(&["To", "kyo", ".", ""]))]);
    let mut generator = client(&server.url());
    let mut pieces = Vec::new();
    let messages = [Message::user("What is the capital of Japan?")];
    let options = Options::default();
    let progress = options.progress.clone();
    let summary = generator.chat(&messages, options, &mut |s| pieces.push(s.text.clone())).expect("an answer");
    assert_eq!(progress.generated_tokens(), 4, "every piece is progress");
    assert_eq!((summary.text.as_str(), summary.stop_reason), ("Tokyo.", StopReason::EndOfText));
    assert_eq!(pieces, ["To", "kyo", ".", ""]);
    let stats = generator.stats();
    let turn = stats.last.expect("a turn");
    assert_eq!((turn.prompt_tokens, turn.generated_tokens, stats.turns), (25, 4, 1));
    let request = &server.requests()[0];
    assert_eq!(request.line, "POST /v1/messages HTTP/1.1");
    assert_eq!(request.headers["x-api-key"], KEY);
    assert_eq!(request.headers["anthropic-version"], "2023-06-01");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!((&request.body["model"], &request.body["stream"]), (&"some-model".into(), &true.into()));
    assert_eq!(request.body["messages"][0]["content"], "What is the capital of Japan?");
    assert!(!format!("{generator:?}").contains(KEY));
}

#[test]
fn an_answer_is_the_same_however_the_network_cuts_it() {
    let body = saying(&["Tōkyō ", "→ 🗼", "\n\ndata: x\n\n"]);
    for step in [1, 3, 7, 64] {
        let pieces = body.chunks(step).map(<[u8]>::to_vec).collect();
        let server = Server::start(vec![Answer { pieces, ..stream(Vec::new()) }]);
        let summary = ask(&mut client(&server.url())).expect("an answer");
        assert_eq!(summary.text, "Tōkyō → 🗼\n\ndata: x\n\n", "{step} bytes at a time");
    }
}

#[test]
fn events_that_are_new_or_of_no_interest_are_passed_over() {
    let body = begin(1)
        + &event("content_block_delta", serde_json::json!({"delta": {"type": "thinking_delta", "thinking": "hm"}}))
        + &event("from_the_future", serde_json::json!({"delta": 7}))
        + ": a comment\n\n"
        + &delta("Tokyo")
        + &end("max_tokens", 1);
    let server = Server::start(vec![stream(body.into_bytes())]);
    let summary = ask(&mut client(&server.url())).expect("an answer");
    assert_eq!((summary.text.as_str(), summary.stop_reason), ("Tokyo", StopReason::MaxTokens));
}

#[test]
fn refusals_say_what_the_server_said_and_never_the_key() {
    let denied = failure(refusal(401, "authentication_error", &format!("invalid x-api-key: {KEY}")));
    assert_eq!(denied.kind(), "denied");
    assert!(denied.to_string().contains("invalid x-api-key: …") && denied.to_string().contains("401"), "{denied}");
    let mut limited = refusal(429, "rate_limit_error", "too many tokens");
    limited.headers = vec![("retry-after", "17".to_owned())];
    let limited = failure(limited);
    assert_eq!(limited.kind(), "rate-limited");
    assert!(limited.to_string().contains("wait 17 s"), "{limited}");
    assert_eq!(failure(refusal(529, "overloaded_error", "Overloaded")).kind(), "overloaded");
    let unknown = failure(refusal(404, "not_found_error", "model: some-model"));
    assert_eq!(unknown.kind(), "rejected");
    assert!(unknown.to_string().contains("model: some-model"), "{unknown}");
    assert_eq!(failure(refusal(500, "api_error", "oops")).kind(), "server");
    // Undocumented responses: a proxy's page, with escape sequences that move the cursor.
    let page = Answer { status: 502, pieces: vec![b"<h1>\x1b[2JBad\ngateway</h1>".to_vec()], ..stream(Vec::new()) };
    let page = failure(page).to_string();
    assert!(
        page.contains("502") && page.contains("gateway") && !page.contains('\x1b') && !page.contains('\n'),
        "{page}"
    );
    let away =
        Answer { status: 307, headers: vec![("location", "http://example.com/".to_owned())], ..stream(Vec::new()) };
    assert_eq!(failure(away).kind(), "rejected", "the key follows no redirect");
}

#[test]
fn answers_that_break_off_are_failures() {
    let part = begin(1) + &delta("Tok");
    let cut = failure(stream(part.clone().into_bytes()));
    assert_eq!((cut.kind(), cut.to_string().contains("before the answer did")), ("broken", true), "{cut}");
    let error = |kind: &str| {
        part.clone() + &event("error", serde_json::json!({"error": {"type": kind, "message": "so sorry"}}))
    };
    assert_eq!(failure(stream(error("overloaded_error").into_bytes())).kind(), "overloaded");
    let server = failure(stream(error("api_error").into_bytes()));
    assert_eq!((server.kind(), server.to_string().contains("so sorry")), ("server", true));
    assert_eq!(failure(stream(format!("{part}data: {{nonsense\n\n").into_bytes())).kind(), "broken");
    assert_eq!(failure(stream(b"<html>not a stream</html>".to_vec())).kind(), "broken");
    assert_eq!(failure(stream((part + &end("refusal", 1)).into_bytes())).kind(), "refused");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let error = ask(&mut client(&format!("http://127.0.0.1:{port}"))).expect_err("nobody").to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}/v1/messages can't be reached")), "{error}");
}

#[test]
fn a_silent_server_can_be_left_and_the_next_question_is_answered() {
    let silent = Answer { pieces: vec![(begin(1) + &delta("Tok")).into_bytes()], hold: true, ..stream(Vec::new()) };
    let server = Server::start(vec![silent, stream(saying(&["Kyoto"]))]);
    let mut generator = client(&server.url());
    let handle = generator.cancel_handle();
    let messages = [Message::user("?")];
    let summary = generator.chat(&messages, Options::default(), &mut |_| handle.cancel()).expect("a part");
    assert_eq!((summary.text.as_str(), summary.stop_reason), ("Tok", StopReason::Cancelled));
    assert_eq!(ask(&mut generator).expect("an answer").text, "Kyoto");
}

#[test]
fn a_server_that_stays_silent_too_long_is_given_up() {
    let silent = Answer { pieces: vec![begin(1).into_bytes()], hold: true, ..stream(Vec::new()) };
    let server = Server::start(vec![silent]);
    let settings = RemoteSettings { enabled: true, model: "m".to_owned(), base_url: server.url() };
    let patience = Duration::from_millis(200);
    let mut generator =
        RemoteGenerator::with_patience(&settings, &SecretString::from(KEY), patience).expect("settings");
    match ask(&mut generator).expect_err("given up") {
        Error::Remote(e) => assert_eq!(e.kind(), "broken", "{e}"),
        other => panic!("{other}"),
    }
    assert!(matches!(generator.chat(&[], Options::default(), &mut |_| {}), Err(Error::NoMessages)));
}
