//! Concurrent, slow and disconnecting clients, and shutdown. The test releases the tokens, so nothing depends on the
//! speed of the machine.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

mod common;

use common::{Running, Settings, events, joined, question, serve, settings, tapped, with};

const CHAT: &str = "/v1/chat/completions";
const QUEUE: &str = "candle_coreml_queue_depth{model=\"tiny-qwen3\"}";
const RUNNING: &str = "candle_coreml_running{model=\"tiny-qwen3\"}";
const ACCEPTED: &str = "candle_coreml_prompt_tokens_total{model=\"tiny-qwen3\"}";
const CANCELLED: &str = "candle_coreml_answers_total{model=\"tiny-qwen3\",end=\"cancelled\"}";

fn stream(tokens: u64) -> Value {
    with(question("x"), json!({"stream": true, "max_tokens": tokens}))
}

/// Reads up to a line that contains `part`.
fn read_to(reader: &mut impl BufRead, part: &str) -> String {
    let mut text = String::new();
    while !text.contains(part) {
        assert_ne!(reader.read_line(&mut text).expect("readable"), 0, "ended before {part}: {text}");
    }
    text
}

#[test]
fn a_full_queue_turns_callers_away_and_loses_none() {
    let (server, tap) = tapped(Settings { queue: 2, ..settings() });
    let first = server.send(CHAT, &stream(5));
    server.until(RUNNING, 1.0);
    let second = server.send(CHAT, &stream(6));
    server.until(QUEUE, 1.0);
    let third = server.send(CHAT, &stream(7));
    server.until(QUEUE, 2.0);
    let mut refused = server.ask(CHAT, &stream(8));
    assert_eq!(refused.status().as_u16(), 429);
    let wait = refused.headers()["retry-after"].to_str().expect("text").parse::<u64>().expect("seconds");
    assert!(wait >= 1);
    let body: Value = serde_json::from_str(&refused.body_mut().read_to_string().expect("a body")).expect("JSON");
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
    // A queued client disconnects: its place is free again.
    drop(second);
    server.until(QUEUE, 1.0);
    let fourth = server.send(CHAT, &stream(9));
    server.until(QUEUE, 2.0);
    tap.open();
    for (tokens, connection) in [(5, first), (7, third), (9, fourth)] {
        let events = events(connection);
        assert_eq!(joined(&events), ("a".repeat(tokens), Some("length".to_owned())));
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    }
    server.until(QUEUE, 0.0);
    server.until(RUNNING, 0.0);
}

/// Releases tokens one by one until the server notices that the reader is gone.
fn until_cancelled(server: &Running, tap: &common::Tap) {
    // Fewer than the answer has: it does not end by itself.
    for _ in 0..150 {
        tap.allow(1);
        std::thread::sleep(Duration::from_millis(20));
        if server.figure(CANCELLED) == 1.0 {
            server.until(RUNNING, 0.0);
            return;
        }
    }
    panic!("the answer goes on without a reader: {}", server.get("/metrics").1);
}

#[test]
fn who_leaves_a_stream_ends_its_computation() {
    let (server, tap) = tapped(settings());
    let mut reader = BufReader::new(server.send(CHAT, &stream(200)));
    tap.allow(2);
    read_to(&mut reader, "\"content\":\"a\"");
    drop(reader);
    until_cancelled(&server, &tap);
}

#[test]
fn who_leaves_before_a_whole_answer_ends_its_computation() {
    let (server, tap) = tapped(settings());
    let connection = server.send(CHAT, &with(question("x"), json!({"max_tokens": 200})));
    while server.figure(ACCEPTED) == 0.0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(connection);
    until_cancelled(&server, &tap);
}

#[test]
fn who_does_not_read_keeps_nobody_waiting() {
    let (server, tap) = tapped(settings());
    tap.open();
    let unread = server.send(CHAT, &stream(100));
    // With a single slot, the first answer has run or is running in it.
    for tokens in [3, 4] {
        assert_eq!(joined(&server.events(CHAT, &stream(tokens))).0, "a".repeat(tokens as usize));
    }
    assert_eq!(joined(&events(unread)).0, "a".repeat(100));
}

#[test]
fn requests_end_at_the_time_limit() {
    let (server, tap) = tapped(Settings { timeout: Duration::from_millis(300), ..settings() });
    let (status, body) = server.post(CHAT, &with(question("x"), json!({"max_tokens": 9})));
    assert_eq!((status, body["error"]["type"].as_str()), (504, Some("timeout")), "{body}");
    // Its thread notices at the next token.
    tap.allow(1);
    server.until(RUNNING, 0.0);
    let (mut text, mut connection) = (String::new(), server.send(CHAT, &stream(9)));
    connection.read_to_string(&mut text).expect("it ends");
    assert!(text.contains("200 OK") && text.contains("\"type\":\"timeout\"") && !text.contains("[DONE]"), "{text}");
    tap.open();
}

#[test]
fn an_ending_server_finishes_what_it_has() {
    let (mut server, tap) = tapped(settings());
    let mut first = BufReader::new(server.send(CHAT, &stream(20)));
    tap.allow(1);
    read_to(&mut first, "\"content\":\"a\"");
    let second = server.send(CHAT, &stream(5));
    server.until(QUEUE, 1.0);
    server.end();
    // Once the port is closed, no more connections are accepted.
    while TcpStream::connect(server.address).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    tap.open();
    let rest = events(first);
    assert_eq!(joined(&rest), ("a".repeat(19), Some("length".to_owned())));
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(joined(&events(second)).0, "a".repeat(5));
    server.join();
}

#[test]
fn an_ending_server_does_not_wait_for_ever() {
    let (mut server, tap) = tapped(Settings { grace: Duration::from_millis(50), ..settings() });
    let mut reader = BufReader::new(server.send(CHAT, &stream(20)));
    tap.allow(1);
    read_to(&mut reader, "\"content\":\"a\"");
    server.join();
    assert!(!events(reader).contains(&"[DONE]".to_owned()));
    tap.open();
}

#[test]
fn embeddings_are_the_encoder_s() {
    use candle_coreml::encoder::{EncoderInput, TextEncoder};
    let server = serve(settings());
    let texts = ["Play jazz for dinner.", "Will it snow in Helsinki tonight?"];
    let encoder = TextEncoder::load(common::folder("tiny-intent")).expect("the shipped encoder");
    let given = texts.map(|t| EncoderInput::Text(t.to_owned()));
    let expected = encoder.embed(&given).expect("vectors");
    let ask = |fields: Value| server.post("/v1/embeddings", &with(json!({"model": "tiny-intent"}), fields));
    let (status, body) = ask(json!({"input": texts}));
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["usage"], json!({"prompt_tokens": expected.tokens, "total_tokens": expected.tokens}));
    for (i, vector) in expected.vectors.iter().enumerate() {
        let found: Vec<f32> = serde_json::from_value(body["data"][i]["embedding"].clone()).expect("numbers");
        assert_eq!((&found, body["data"][i]["index"].as_u64()), (vector, Some(i as u64)));
    }
    let (_, single) = ask(json!({"input": texts[0], "encoding_format": "base64", "dimensions": 64}));
    let base64 = single["data"][0]["embedding"].as_str().expect("text").to_owned();
    // 256 bytes are 86 groups of four characters; the first numbers are decoded by hand.
    assert_eq!(base64.len(), 344);
    // A single text: sums are in another order than in a batch.
    let alone = encoder.embed(&given[..1]).expect("a vector");
    assert_eq!(first_numbers(&base64), alone.vectors[0][..3]);
    for (fields, part) in [
        (json!({"input": texts, "model": "tiny-qwen3"}), "language model"),
        (json!({"input": []}), "at least one"),
        (json!({"input": {"a": 1}}), "expected a string"),
        (json!({"input": "a", "dimensions": 8}), "64"),
        (json!({"input": "a", "encoding_format": "hex"}), "base64"),
        (json!({"input": "word ".repeat(60)}), "48"),
        (json!({"input": [70000]}), "vocabulary"),
    ] {
        let (status, body) = ask(fields);
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(part), "{part}: {status} {body}");
    }
}

/// First three numbers (f32, little-endian) of a base64 text: 12 bytes are 16 characters.
fn first_numbers(base64: &str) -> Vec<f32> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u32> = base64.bytes().take(16).map(|c| u32::from(value(c))).collect();
    let bytes: Vec<u8> = letters
        .chunks(4)
        .flat_map(|c| {
            let bits = c.iter().fold(0, |bits, v| bits << 6 | v);
            [(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]
        })
        .collect();
    bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
