//! A small server for the Messages API with scripted responses; for the tests of the library and of the command.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

/// A scripted response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// Chunks, each flushed.
    pub pieces: Vec<Vec<u8>>,
    /// Keeps the connection open and silent at the end, until the client disconnects.
    pub hold: bool,
}

/// An event of the stream.
pub fn event(kind: &str, mut data: Value) -> String {
    data["type"] = json!(kind);
    format!("event: {kind}\ndata: {data}\n\n")
}

pub fn delta(text: &str) -> String {
    event("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": text}}))
}

pub fn begin(input_tokens: usize) -> String {
    let usage = json!({"input_tokens": input_tokens, "output_tokens": 1});
    event("message_start", json!({"message": {"id": "msg_1", "role": "assistant", "content": [], "usage": usage}}))
        + &event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}}))
        + &event("ping", json!({}))
}

pub fn end(reason: &str, output_tokens: usize) -> String {
    event("content_block_stop", json!({"index": 0}))
        + &event(
            "message_delta",
            json!({"delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": output_tokens}}),
        )
        + &event("message_stop", json!({}))
}

/// A complete response.
pub fn saying(pieces: &[&str]) -> Vec<u8> {
    let body: String = pieces.iter().map(|p| delta(p)).collect();
    (begin(25) + &body + &end("end_turn", pieces.len())).into_bytes()
}

pub fn stream(body: Vec<u8>) -> Answer {
    Answer { status: 200, headers: Vec::new(), pieces: vec![body], hold: false }
}

pub fn refusal(status: u16, kind: &str, message: &str) -> Answer {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}}).to_string();
    Answer { status, headers: Vec::new(), pieces: vec![body.into_bytes()], hold: false }
}

pub struct Server {
    pub log: Arc<Mutex<Vec<Request>>>,
    port: u16,
}

impl Server {
    /// Returns these responses in turn, then repeats the last one.
    pub fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = log.clone();
        std::thread::spawn(move || {
            for (i, connection) in listener.incoming().enumerate() {
                let answer = answers[i.min(answers.len() - 1)].clone();
                let log = shared.clone();
                std::thread::spawn(move || {
                    // Clients that disconnect midway are part of the tests.
                    let _ = connection.and_then(|c| serve(c, &answer, &log));
                });
            }
        });
        Self { log, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("not poisoned").clone()
    }
}

fn serve(mut connection: TcpStream, answer: &Answer, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    log.lock().expect("not poisoned").push(Request { line: line.trim_end().to_owned(), headers, body });
    write!(connection, "HTTP/1.1 {} Status\r\nconnection: close\r\ntransfer-encoding: chunked\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(connection, "{name}: {value}\r\n")?;
    }
    write!(connection, "\r\n")?;
    for piece in answer.pieces.iter().filter(|p| !p.is_empty()) {
        write!(connection, "{:x}\r\n", piece.len())?;
        connection.write_all(piece)?;
        write!(connection, "\r\n")?;
        connection.flush()?;
    }
    if answer.hold {
        // Ends when the client closes its side.
        let _ = reader.read(&mut [0; 1]);
        return Ok(());
    }
    write!(connection, "0\r\n\r\n")
}
