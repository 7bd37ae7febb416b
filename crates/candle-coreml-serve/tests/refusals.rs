//! Refused requests: status, OpenAI's error object, and a message with the reason.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use candle_coreml_serve::{Models, ServeError};
use serde_json::{Value, json};

mod common;

use common::{Settings, agent, folder, question, serve, settings, with};

const CHAT: &str = "/v1/chat/completions";

fn error(found: (u16, Value), status: u16, code: Option<&str>, part: &str) {
    let (found_status, body) = found;
    assert_eq!(found_status, status, "{body}");
    let error = &body["error"];
    assert_eq!(error["code"].as_str(), code, "{body}");
    assert!(error["message"].as_str().is_some_and(|m| m.contains(part)), "{part} is missing in {body}");
    assert!(error["type"].is_string(), "{body}");
}

#[test]
fn wrong_requests_say_what_is_wrong() {
    let server = serve(Settings { max_body: 20_000, ..settings() });
    let ask = |fields: Value| server.post(CHAT, &with(question("2 + 2 ="), fields));
    error(ask(json!({"model": "gpt-5"})), 404, Some("model_not_found"), "tiny-qwen3, tiny-intent");
    error(ask(json!({"model": "tiny-intent"})), 400, None, "generates no text");
    error(ask(json!({"temperature": 3})), 400, None, "temperature");
    error(ask(json!({"temperature": "hot"})), 400, None, "invalid type");
    error(ask(json!({"messages": []})), 400, None, "no messages");
    error(ask(json!({"messages": 1})), 400, None, "messages");
    error(ask(json!({"messages": [{"role": "function", "content": "x"}]})), 400, None, "messages[0].role");
    error(ask(json!({"messages": [{"role": "tool", "content": "x"}]})), 400, None, "messages[0].tool_call_id");
    error(ask(json!({"messages": [{"role": "user"}]})), 400, None, "messages[0].content");
    error(ask(json!({"tools": [{"type": "function"}]})), 400, None, "tools[0].function.name");
    error(ask(json!({"top_logprobs": 2})), 400, None, "top_logprobs");
    error(ask(json!({"logprobs": true, "top_logprobs": 21})), 400, None, "top_logprobs");
    error(ask(json!({"n": 129})), 400, None, "n:");
    let long = "word ".repeat(100);
    error(ask(json!({"messages": [{"role": "user", "content": long}]})), 400, Some("context_length_exceeded"), "256");
    let text = |body: Value| server.post("/v1/completions", &body);
    error(text(json!({"prompt": "a", "logprobs": 6})), 400, None, "logprobs");
    error(text(json!({"prompt": "a", "echo": true, "logprobs": 0, "stream": true})), 400, None, "echo");
    error(text(json!({"prompt": ""})), 400, None, "empty");
    error(text(json!({"prompt": [5000]})), 400, None, "vocabulary");
    error(text(json!({})), 400, None, "prompt");

    let big = "x".repeat(30_000);
    error(ask(json!({"messages": [{"role": "user", "content": big}]})), 413, None, "");
    let send = |kind: &str, body: &str| {
        let mut response = agent().post(server.url(CHAT)).content_type(kind).send(body.as_bytes()).expect("an answer");
        let text = response.body_mut().read_to_string().expect("a body");
        (response.status().as_u16(), serde_json::from_str(&text).expect("JSON"))
    };
    error(send("application/json", "{\"model\": "), 400, None, "JSON");
    error(send("application/json", &"[".repeat(10_000)), 400, None, "");
    // Browsers send this cross-origin without a preflight; JSON needs one.
    error(send("text/plain", "{}"), 415, None, "application/json");
    let get = |path: &str| {
        let (status, body) = server.get(path);
        (status, serde_json::from_str(&body).expect("JSON"))
    };
    error(get("/v1/nothing"), 404, Some("unknown_url"), "GET /v1/nothing");
    error(get(CHAT), 405, Some("unknown_url"), "GET");
    error(get("/v1/models/nothing"), 404, Some("model_not_found"), "nothing");
    assert_eq!(get("/v1/models/tiny-qwen3").1["max_model_len"], 256);
    assert_eq!(get("/v1/models").1["data"].as_array().map(Vec::len), Some(2));
    // None of these ran, and clients' paths do not become labels.
    let metrics = server.get("/metrics").1;
    assert!(!metrics.contains("nothing") && metrics.contains("path=\"other\",status=\"404\""), "{metrics}");
    assert!(!metrics.contains("generated_tokens_total{model=\"tiny-qwen3\"} 1"), "{metrics}");
}

#[test]
fn without_the_key_only_health_is_told() {
    let key = "s3cret-key";
    let server = serve(Settings { api_key: Some(key.into()), ..settings() });
    let ask = |authorization: Option<&str>, path: &str| {
        let request = agent().get(server.url(path));
        let request = match authorization {
            Some(value) => request.header("Authorization", value),
            None => request,
        };
        let mut response = request.call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a body"))
    };
    for wrong in [None, Some("Bearer wrong"), Some("s3cret-key"), Some("Bearer s3cret-ke")] {
        for path in ["/v1/models", "/metrics", "/nowhere"] {
            let (status, body) = ask(wrong, path);
            assert_eq!(status, 401, "{path} {body}");
            assert!(body.contains("invalid_api_key") && !body.contains(key), "{body}");
        }
    }
    error(server.post(CHAT, &question("1")), 401, Some("invalid_api_key"), "Bearer");
    assert_eq!(ask(None, "/health").0, 200);
    for path in ["/v1/models", "/metrics"] {
        assert_eq!(ask(Some("Bearer s3cret-key"), path).0, 200);
    }
    assert!(!format!("{:?}", Settings { api_key: Some(key.into()), ..settings() }).contains(key));
}

#[test]
fn a_page_that_gave_its_name_to_this_machine_is_refused() {
    let ask = |server: &common::Running, host: &str| {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        let head = "Authorization: Bearer k\r\nConnection: close";
        write!(stream, "GET /v1/models HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    };
    let open = serve(settings());
    let refused = ask(&open, "evil.example:80");
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("wrong_host"), "{refused}");
    assert!(ask(&open, "localhost:9").starts_with("HTTP/1.1 200"));
    // With the key, any host name is accepted, for instance through a proxy.
    let keyed = serve(Settings { api_key: Some("k".into()), ..settings() });
    assert!(ask(&keyed, "models.example").starts_with("HTTP/1.1 200"));
}

#[test]
fn connections_that_send_no_request_are_closed() {
    let server = serve(Settings { head_time: Duration::from_millis(100), ..settings() });
    let mut slow = TcpStream::connect(server.address).expect("it listens");
    slow.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost:").expect("sent");
    let mut rest = Vec::new();
    // Ends, with or without a response; a server that waited forever would never close it.
    let _ = slow.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("200"));
    let mut garbage = TcpStream::connect(server.address).expect("it listens");
    garbage.write_all(&[0, 159, 146, 150, 13, 10, 13, 10]).expect("sent");
    let _ = garbage.read_to_end(&mut rest);
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn what_is_no_model_is_not_served() {
    let settings = settings();
    let fail = |models: &[(&str, std::path::PathBuf)]| {
        let models: Vec<_> = models.iter().map(|(n, p)| ((*n).to_owned(), p.clone())).collect();
        Models::load(&models, &settings).expect_err("refused")
    };
    assert!(matches!(fail(&[]), ServeError::NoModel));
    let twice = fail(&[("a", folder("tiny-intent")), ("a", folder("tiny-intent"))]);
    assert!(matches!(&twice, ServeError::SameName(n) if n == "a"), "{twice}");
    let empty = tempfile::tempdir().expect("a folder");
    // One reason where nothing is there, two where a package may have been meant for either.
    let nothing = fail(&[("x", empty.path().to_owned())]).to_string();
    assert!(nothing.ends_with("an empty folder") && !nothing.contains("encoder"), "{nothing}");
    let missing = fail(&[("x", empty.path().join("y"))]).to_string();
    assert!(missing.starts_with("x: ") && !missing.contains("encoder"), "{missing}");
    std::fs::create_dir(empty.path().join("a.mlpackage")).expect("a folder");
    let neither = fail(&[("x", empty.path().to_owned())]).to_string();
    assert!(neither.starts_with("x: not a language model") && neither.contains("not an encoder"), "{neither}");
}
