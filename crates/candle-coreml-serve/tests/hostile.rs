//! Hostile clients on raw sockets: silent, slow, ambiguous, oversized, disconnecting. Limits are small, and nothing
//! depends on the speed of the machine.
//!
//! Other addresses in 127/8 act as other clients; Linux accepts all of them by default.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod common;

use common::{Running, Settings, question, serve, settings, tapped, with};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "Authorization: Bearer k\r\n";

/// Timeout reached only on failure.
const EVER: Duration = Duration::from_secs(60);

fn keyed() -> Settings {
    Settings { api_key: Some("k".into()), ..settings() }
}

/// Connects, with timeouts on every wait.
fn connect(server: &Running) -> TcpStream {
    let stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(EVER)).expect("a time limit");
    stream.set_write_timeout(Some(EVER)).expect("a time limit");
    stream
}

fn sent(server: &Running, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = connect(server);
    stream.write_all(bytes.as_ref()).expect("sent");
    stream
}

/// Reads until EOF.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{e} after {}", String::from_utf8_lossy(&bytes)));
    String::from_utf8(bytes).expect("text")
}

/// Status, head and JSON of a response; interim ones are skipped.
fn answer(text: &str) -> (u16, String, Value) {
    let text = text.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("said {text:?}"));
    let status = head[9..12].parse().expect("a status");
    (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or_else(|e| panic!("{e} in {text:?}")))
}

/// Expects an OpenAI error, followed by the end of the connection.
#[track_caller]
fn refused(text: &str, status: u16, part: &str) {
    let (found, head, body) = answer(text);
    assert_eq!(found, status, "{text}");
    assert!(head.contains("content-type: application/json") && head.contains("connection: close"), "{text}");
    let error = &body["error"];
    assert!(error["type"].is_string() && error["message"].as_str().is_some_and(|m| m.contains(part)), "{part}: {text}");
}

fn health(stream: TcpStream) -> u16 {
    let mut stream = stream;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    answer(&rest(&stream)).0
}

fn post(body: &str, fields: &str) -> String {
    let length = body.len();
    format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}Content-Length: \
         {length}\r\n\r\n{body}"
    )
}

#[test]
fn silent_connections_of_one_address_take_its_share_only() {
    let server = serve(Settings { connections: 8, share: 4, reserve: 2, head_time: EVER, ..settings() });
    let silent: Vec<_> = (0..40).map(|_| connect(&server)).collect();
    // The same address can still query the health, and learns why it is refused.
    assert_eq!(health(connect(&server)), 200);
    let text = rest(&sent(&server, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    refused(&text, 429, "your address");
    assert!(answer(&text).1.contains("retry-after: "), "{text}");
    drop(silent);
    // Its places are free again.
    let until = Instant::now() + EVER;
    while !rest(&sent(&server, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
        .contains(" 200 ")
    {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn another_address_is_served_beside_one_that_has_its_share() {
    let server = serve(Settings { connections: 6, share: 4, reserve: 2, head_time: EVER, ..settings() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
    let from = |ip: &str| {
        let connected = async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((ip.parse::<std::net::IpAddr>().expect("an address"), 0).into())?;
            socket.connect(server.address).await?.into_std()
        };
        let stream = runtime.block_on(connected).expect("it listens");
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(EVER)).expect("a time limit");
        stream
    };
    let ask = |ip: &str| {
        let mut stream = from(ip);
        stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
        rest(&stream)
    };
    let _silent: Vec<_> = (0..20).map(|_| from("127.0.0.1")).collect();
    assert_eq!(answer(&ask("127.0.0.2")).0, 200);
    let _more: Vec<_> = (0..20).map(|_| from("127.0.0.3")).collect();
    // All places are now taken by others.
    refused(&ask("127.0.0.2"), 503, "too many connections");
    assert_eq!(health(from("127.0.0.2")), 200);
}

#[test]
fn heads_have_a_time_that_trickling_does_not_stretch() {
    let server = serve(Settings { head_time: Duration::from_millis(300), ..settings() });
    let mut slow = sent(&server, "GET /health HTTP/1.1\r\nHost: localhost\r\nx: ");
    slow.set_read_timeout(Some(Duration::from_millis(20))).expect("a time limit");
    let until = Instant::now() + EVER / 3;
    // One letter at a time, until the server responds.
    while slow.peek(&mut [0]).is_err() {
        assert!(Instant::now() < until, "the server still waits");
        let _ = slow.write_all(b"y");
    }
    slow.set_read_timeout(Some(EVER)).expect("a time limit");
    refused(&rest(&slow), 408, "head");
    // A client that sends nothing gets nothing.
    assert_eq!(rest(&connect(&server)), "");
}

#[test]
fn a_connection_may_be_silent_between_requests_for_a_while() {
    let server = serve(Settings { idle_time: Duration::from_millis(200), ..settings() });
    let text = rest(&sent(&server, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert!(text.contains(" 200 OK") && !text.contains("connection: close"), "{text}");
    // An unauthenticated client gets one response.
    let server = serve(Settings { idle_time: EVER, ..keyed() });
    let text = rest(&sent(&server, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert!(text.contains(" 200 OK") && text.contains("connection: close"), "{text}");
}

#[test]
fn bodies_without_the_key_are_not_read() {
    let server = serve(Settings { body_time: EVER, ..keyed() });
    for fields in [
        "Content-Length: 4000000\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\nContent-Length: 9\r\n",
    ] {
        let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}\r\n");
        let text = rest(&sent(&server, head));
        refused(&text, 401, "key");
        assert!(!text.contains("100 Continue"), "{text}");
    }
    // A client that sends everything before reading still gets the response.
    let body = "x".repeat(1 << 20);
    refused(&rest(&sent(&server, post(&body, ""))), 401, "key");
    // The same without a key.
    let text = rest(&sent(&server, "GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nGET "));
    assert!(text.contains(" 200 OK") && text.contains("connection: close"), "{text}");
}

#[test]
fn bodies_have_a_time_that_grows_with_what_has_come() {
    let server = serve(Settings { body_time: Duration::from_millis(300), body_rate: 10_000, ..keyed() });
    let slow = sent(&server, post("{", KEY).replace(": 1\r\n", ": 9000\r\n"));
    refused(&rest(&slow), 408, "body");
    // A second per 10,000 bytes is allowed: a client that keeps the pace is not cut off.
    let body = with(question("2 + 2 ="), json!({"user": "u".repeat(20_000)})).to_string();
    let request = post(&body, &format!("{KEY}Connection: close\r\n"));
    let mut steady = connect(&server);
    for part in request.as_bytes().chunks(2_000) {
        steady.write_all(part).expect("sent");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(answer(&rest(&steady)).0, 200);
}

#[test]
fn half_closed_requests_are_answered() {
    let server = serve(keyed());
    let body = question("What is the capital of Peru?").to_string();
    for fields in [KEY.to_owned(), format!("{KEY}Connection: close\r\n")] {
        let stream = sent(&server, post(&body, &fields));
        stream.shutdown(Shutdown::Write).expect("half closed");
        let text = rest(&stream);
        let (status, _, body) = answer(&text);
        assert_eq!((status, body["choices"][0]["message"]["content"].as_str()), (200, Some("Lima")), "{text}");
    }
    // Also while it waits for tokens.
    let (server, tap) = tapped(settings());
    let stream = sent(&server, post(&with(question("x"), json!({"max_tokens": 9})).to_string(), ""));
    stream.shutdown(Shutdown::Write).expect("half closed");
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        tap.allow(1);
    }
    assert_eq!(answer(&rest(&stream)).2["choices"][0]["message"]["content"], "a".repeat(9));
    tap.open();
}

#[test]
fn requests_that_end_too_early_are_told() {
    let server = serve(settings());
    for (bytes, part) in
        [("GET /health HTTP/1.1\r\nHost: loc", "head"), (&*post("{}", "").replace(": 2\r\n", ": 3\r\n"), "body")]
    {
        let stream = sent(&server, bytes);
        stream.shutdown(Shutdown::Write).expect("half closed");
        refused(&rest(&stream), 400, part);
    }
    let nothing = connect(&server);
    nothing.shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(rest(&nothing), "");
}

#[test]
fn every_refusal_is_json() {
    let server = serve(Settings { max_body: 1000, ..settings() });
    let get = |fields: &str| format!("GET /health HTTP/1.1\r\n{fields}\r\n");
    let post = |fields: &str| {
        format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}\r\n")
    };
    for (text, status, part) in [
        (get(""), 400, "`host`"),
        (get("Host: localhost\r\nHost: localhost\r\n"), 400, "`host`"),
        (get("Host: local host\r\n"), 400, "`host`"),
        (get("Host: me@localhost\r\n"), 400, "`host`"),
        (get("Host: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n"), 400, "content-length"),
        (get("Host: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "transfer-encoding"),
        (get("Host: localhost\r\nTransfer-Encoding: identity\r\n"), 501, "chunked"),
        (get("Host: localhost\r\nExpect: wonders\r\n"), 417, "expect"),
        (get(&format!("Host: localhost\r\nx: {}\r\n", "y".repeat(20_000))), 431, "bytes"),
        (get(&format!("Host: localhost\r\n{}", "x: y\r\n".repeat(100))), 431, "fields"),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(20_000)), 414, "target"),
        ("GET /health HTTP/2.0\r\n\r\n".to_owned(), 505, "HTTP/1.1"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505, "HTTP/1.1"),
        ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n".to_owned(), 405, "proxy"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\r\n\r\n".to_owned(), 400, "malformed"),
        (post("Content-Length: 1001\r\n"), 413, "1000"),
        (post("Transfer-Encoding: chunked\r\n") + "3e9\r\n", 413, "1000"),
        (post("Transfer-Encoding: chunked\r\n") + "x\r\n", 400, "chunk"),
    ] {
        refused(&rest(&sent(&server, &text)), status, part);
    }
    // HTTP/1.0 requires no host, and gets no chunks.
    let text = rest(&sent(&server, "GET /health HTTP/1.0\r\n\r\n"));
    assert_eq!(answer(&text).0, 200);
    assert!(!text.contains("chunked") && text.contains("connection: close"), "{text}");
    let body = with(question("2 + 2 ="), json!({"stream": true})).to_string();
    let text = rest(&sent(
        &server,
        post("")
            .replace("1.1", "1.0")
            .replace("\r\n\r\n", &format!("\r\nContent-Length: {}\r\n\r\n{body}", body.len())),
    ));
    assert!(text.contains(" 200 OK") && text.ends_with("data: [DONE]\n\n") && !text.contains("chunked"), "{text}");
}

#[test]
fn refusals_can_be_read_by_pages_of_allowed_origins() {
    let server = serve(Settings { max_body: 1000, allow_origins: vec!["https://chat.example".to_owned()], ..keyed() });
    let page = "Origin: https://chat.example\r\n";
    let head = |line: &str, fields: &str| {
        let (line, fields) = (line.to_owned(), fields.to_owned());
        move |origin: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{origin}{fields}\r\n")
    };
    for (request, status) in [
        (head("GET /nowhere", KEY), 404),
        (head("DELETE /v1/models", KEY), 405),
        (head("GET /v1/models", ""), 401),
        (head("POST /v1/chat/completions", &format!("{KEY}Content-Length: 1001\r\n")), 413),
        (head("POST /v1/chat/completions", &format!("{KEY}Transfer-Encoding: identity\r\n")), 501),
        (head("GET /health", "x : y\r\n"), 400),
        (head("GET /health", "Host: localhost\r\n"), 400),
        (head("GET /health", &format!("x: {}\r\n", "y".repeat(20_000))), 431),
        (head("CONNECT localhost:80", ""), 405),
    ] {
        let (found, head, _) = answer(&rest(&sent(&server, request(page))));
        assert_eq!(found, status, "{head}");
        assert_eq!(head.matches("access-control-allow-origin: https://chat.example\r\n").count(), 1, "{head}");
        assert!(head.contains("vary: origin"), "{head}");
        for other in ["Origin: https://evil.example\r\n", &page.repeat(2), ""] {
            let (found, head, _) = answer(&rest(&sent(&server, request(other))));
            let twice = other.len() > page.len() * 2 - 1;
            // Fields that are well formed are read as they are: the first of two counts.
            assert!(found == status && (twice || !head.contains("access-control")), "{other}: {head}");
        }
    }
}

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let server = serve(settings());
    let body = question("What is the capital of Peru?").to_string();
    let chunked = {
        let (first, second) = body.split_at(10);
        let chunks = format!("{:x}\r\n{first}\r\n{:X};x\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
        post("", "Expect: 100-continue\r\n")
            .replace("Content-Length: 0\r\n\r\n", &format!("Transfer-Encoding: chunked\r\n\r\n{chunks}"))
    };
    let head = "HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let text = rest(&sent(&server, format!("{head}{}{chunked}\r\n{last}", post(&body, ""))));
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(i, _)| &text[i + 9..i + 12]).collect();
    assert_eq!(statuses, ["200", "200", "200", "404"], "{text}");
    assert_eq!(text.matches("\"Lima\"").count(), 2, "{text}");
}

#[test]
fn a_client_that_waits_is_told_to_send_its_body() {
    let server = serve(keyed());
    let body = question("What is the capital of Peru?").to_string();
    let request = post(&body, &format!("{KEY}Connection: close\r\nExpect: 100-continue\r\n"));
    let (head, body) = request.split_at(request.len() - body.len());
    let mut stream = sent(&server, head);
    let mut line = [0; 25];
    stream.read_exact(&mut line).expect("an interim answer");
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).expect("sent");
    assert_eq!(answer(&rest(&stream)).0, 200);
}

#[test]
fn long_prompts_are_refused_by_their_bytes() {
    let server = serve(settings());
    // The model's context is 256 tokens, the encoder's 48. A refused input is not tokenized: no token count is
    // reported.
    for (path, body, most) in [
        (CHAT, question(&"word ".repeat(100_000)), "256 tokens holds at most 16384"),
        (
            "/v1/completions",
            json!({"model": "tiny-qwen3", "prompt": "word ".repeat(100_000)}),
            "256 tokens holds at most",
        ),
        ("/v1/completions", json!({"model": "tiny-qwen3", "prompt": vec![1; 257]}), "has 257 tokens"),
        (
            "/v1/embeddings",
            json!({"model": "tiny-intent", "input": ["a", "word ".repeat(100_000)]}),
            "48 tokens holds at most",
        ),
    ] {
        let (status, body) = server.post(path, &body);
        assert_eq!((status, body["error"]["code"].as_str()), (400, Some("context_length_exceeded")), "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|m| m.contains(most)), "{body}");
    }
    let (status, body) = server.post("/v1/embeddings", &json!({"input": vec![vec![0; 200]; 2000]}));
    assert_eq!(status, 413, "{body}");
}

#[test]
fn large_bodies_wait_for_their_room() {
    let settings =
        Settings { max_body: 8192, bodies: 16_384, body_time: Duration::from_millis(300), body_rate: 10, ..settings() };
    let server = serve(settings);
    let padded = with(question("2 + 2 ="), json!({"user": "u".repeat(8000)})).to_string();
    // A slow client holds the memory of its address from the moment it is asked for its body.
    let request = post(&padded, "Connection: close\r\n");
    let invited = post(&padded, "Expect: 100-continue\r\n");
    let (head, body) = invited.split_at(invited.find("\r\n\r\n").expect("a head") + 4);
    let mut slow = sent(&server, head);
    slow.read_exact(&mut [0; 25]).expect("an interim answer");
    slow.write_all(&body.as_bytes()[..body.len() - 8000]).expect("a part of the body");
    refused(&rest(&sent(&server, &request)), 503, "large requests");
    let small = post(&question("2 + 2 =").to_string(), "Connection: close\r\n");
    refused(&rest(&sent(&server, small)), 503, "large requests");
    drop(slow);
    let until = Instant::now() + EVER;
    while answer(&rest(&sent(&server, &request))).0 != 200 {
        assert!(Instant::now() < until);
    }
}

#[test]
fn draining_waits_for_what_is_computed_only() {
    let (mut server, tap) =
        tapped(Settings { grace: EVER, head_time: EVER, body_time: EVER, idle_time: EVER, ..settings() });
    let silent = connect(&server);
    let head = sent(&server, "GET /health HTTP/1.1\r\nHost: ");
    let mut idle = sent(&server, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    idle.read_exact(&mut [0; 12]).expect("an answer");
    let mut body = sent(&server, post("", "Expect: 100-continue\r\n").replace(": 0\r\n", ": 100\r\n"));
    body.read_exact(&mut [0; 25]).expect("an interim answer");
    let computed = sent(&server, post(&with(question("x"), json!({"max_tokens": 5})).to_string(), ""));
    server.until("candle_coreml_running{model=\"tiny-qwen3\"}", 1.0);
    server.end();
    assert_eq!(rest(&silent), "");
    assert_eq!(rest(&head), "");
    assert!(!rest(&idle).contains("HTTP/1.1"));
    refused(&rest(&body), 503, "ending");
    tap.open();
    let text = rest(&computed);
    assert_eq!(answer(&text).2["choices"][0]["message"]["content"], "aaaaa");
    assert!(text.contains("connection: close"), "{text}");
    server.join();
}

#[test]
fn who_never_reads_is_cut_off() {
    let server = serve(Settings { patience: Duration::from_millis(200), share: 1, reserve: 1, ..settings() });
    let mut stream = connect(&server);
    // More responses than both systems can buffer.
    let requests = "GET /v1/nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let until = Instant::now() + EVER;
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a time limit");
    let broken = loop {
        match stream.write_all(requests.as_bytes()) {
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => break true,
            _ if Instant::now() > until => break false,
            _ => {}
        }
    };
    assert!(broken, "the server still waits for its reader");
}

#[test]
fn a_panic_is_an_error_of_its_own_request() {
    let (server, tap) = common::tapped_with(settings(), true);
    tap.open();
    // The model panics at every token of this letter.
    for _ in 0..3 {
        let (status, body) = server.post(CHAT, &question("Z"));
        assert_eq!((status, body["error"]["type"].as_str()), (500, Some("server_error")), "{body}");
        let whole = server.ok(CHAT, &with(question("x"), json!({"max_tokens": 3})));
        assert_eq!(whole["choices"][0]["message"]["content"], "aaa");
    }
    // Streams report it in an event, without `[DONE]`, as the answer is incomplete.
    let events = server.events(CHAT, &with(question("Z"), json!({"stream": true})));
    assert!(events.last().is_some_and(|e| e.contains("server_error")), "{events:?}");
    server.until("candle_coreml_running{model=\"tiny-qwen3\"}", 0.0);
    server.until("candle_coreml_answers_total{model=\"tiny-qwen3\",end=\"error\"}", 4.0);
}
