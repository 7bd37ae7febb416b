//! A small server for the hub's API, with injected faults; for the tests of the library and of the command.
//!
//! Large files redirect to a second port, as the public hub redirects to its CDN.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Injected faults.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Responds with this status and headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Sends this many bytes of the body, then closes the connection.
    Cut(usize),
    /// Sends this many bytes of the body, then stays silent.
    Stall(usize),
    /// Trickles a few bytes at a time.
    Drip,
    /// Alters the content.
    Corrupt,
    /// Responds to a range with the whole file.
    IgnoreRange,
    /// Responds to a range with another one.
    WrongRange,
    /// Sends more bytes than the listing announced.
    TooLong,
    /// Closes the connection without a response.
    Refuse,
}

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// True if it came to the CDN port.
    pub cdn: bool,
}

#[derive(Default)]
pub struct State {
    /// Path → content.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Raw responses by URL path, overriding the server's own.
    pub raw: BTreeMap<String, String>,
    /// Substring of the path, number of times, fault.
    pub faults: Vec<(String, usize, Fault)>,
    pub log: Vec<Request>,
    /// Number of files per page of the listing.
    pub page: Option<usize>,
    pub token: Option<String>,
    /// Pause after this many bytes.
    pub throttle: Option<(usize, Duration)>,
    pub no_etag: bool,
}

pub struct Server {
    pub state: Arc<Mutex<State>>,
    /// Number of file content bytes sent.
    pub sent: Arc<AtomicU64>,
    port: u16,
    cdn: u16,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

pub fn git_oid(content: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}

pub fn is_large(path: &str) -> bool {
    path.ends_with(".bin") || path.ends_with(".mlmodel") || path.ends_with(".zip")
}

/// The files of a folder with their relative paths.
pub fn read_tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let relative = path.strip_prefix(folder).expect("below").to_string_lossy().replace('\\', "/");
                files.insert(relative, std::fs::read(&path).expect("a file"));
            }
        }
    }
    files
}

/// The shipped model.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

/// Expected contents of its download.
pub fn wanted() -> BTreeMap<String, Vec<u8>> {
    let mut files = read_tree(&tiny());
    files.retain(|path, _| !path.ends_with(".md") && !path.ends_with(".jsonl"));
    files
}

impl Server {
    /// Serves the shipped model as `org/tiny`.
    pub fn start() -> Self {
        Self::with(read_tree(&tiny()))
    }

    pub fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let sent = Arc::new(AtomicU64::new(0));
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (main, content) = (listen(), listen());
        let port = |l: &TcpListener| l.local_addr().expect("an address").port();
        let server = Self { state: state.clone(), sent: sent.clone(), port: port(&main), cdn: port(&content) };
        for (listener, is_cdn) in [(main, false), (content, true)] {
            let (state, sent, cdn) = (state.clone(), sent.clone(), server.cdn);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let connection = Connection { state: state.clone(), sent: sent.clone(), is_cdn, cdn };
                    std::thread::spawn(move || connection.serve(stream));
                }
            });
        }
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("not poisoned"));
    }

    /// The next `times` requests whose path contains `path` fail.
    pub fn fault(&self, path: &str, times: usize, fault: Fault) {
        self.change(|s| s.faults.push((path.to_owned(), times, fault)));
    }

    pub fn log(&self) -> Vec<Request> {
        self.state.lock().expect("not poisoned").log.clone()
    }

    /// Requests whose path contains this substring.
    pub fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|r| r.path.contains(part)).count()
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

struct Connection {
    state: Arc<Mutex<State>>,
    sent: Arc<AtomicU64>,
    is_cdn: bool,
    cdn: u16,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    is_content: bool,
    cut: Option<(usize, bool)>,
    drips: bool,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), is_content: false, cut: None, drips: false }
    }
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
            out.push(u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?'));
        } else {
            out.push(b);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Connection {
    fn serve(self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
        }
        let request = Request { path, headers, cdn: self.is_cdn };
        let (answer, throttle) = {
            let mut state = self.state.lock().expect("not poisoned");
            state.log.push(request.clone());
            (self.answer(&mut state, &request), state.throttle)
        };
        if let Some(answer) = answer {
            // The client may be gone.
            let _ = self.send(stream, answer, throttle);
        }
    }

    fn answer(&self, state: &mut State, request: &Request) -> Option<Answer> {
        // Redirects to the CDN are exempt from faults: the CDN request has them.
        let path = unescape(request.path.split('?').next().unwrap_or_default());
        let redirects = !self.is_cdn && path.contains("/resolve/") && is_large(&path);
        let at = state.faults.iter().position(|f| f.1 > 0 && path.contains(&f.0)).filter(|_| !redirects);
        let fault = at.map(|i| {
            state.faults[i].1 -= 1;
            state.faults[i].2.clone()
        });
        match &fault {
            Some(Fault::Refuse) => return None,
            Some(Fault::Status(status, headers)) => {
                return Some(Answer { headers: headers.clone(), ..Answer::new(*status, "no") });
            }
            _ => {}
        }
        if !self.is_cdn
            && let Some(token) = &state.token
            && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            return Some(Answer::new(401, "token"));
        }
        if matches!(fault, Some(Fault::Drip)) && path.starts_with("/api/") {
            return Some(Answer { drips: true, ..Answer::new(200, " ".repeat(10_000)) });
        }
        if let Some(raw) = state.raw.get(&path) {
            return Some(Answer::new(200, raw.clone()));
        }
        if let Some(rest) = path.strip_prefix("/api/models/org/tiny/") {
            return Some(self.api(state, rest, &request.path));
        }
        let file = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")).or(path.strip_prefix("/cdn/"));
        let Some((name, content)) = file.and_then(|f| state.files.get_key_value(f)) else {
            return Some(Answer::new(404, "no such file"));
        };
        if redirects {
            let location = format!("http://127.0.0.1:{}/cdn/{name}?signature=x", self.cdn);
            return Some(Answer { headers: vec![("Location", location)], ..Answer::new(302, "") });
        }
        Some(content_answer(state, name, content, request, fault))
    }

    fn api(&self, state: &State, rest: &str, url: &str) -> Answer {
        if let Some(revision) = rest.strip_prefix("revision/") {
            let known = ["main", "v1", "refs/pr/1", COMMIT].contains(&revision);
            return if known { Answer::new(200, format!("{{\"sha\":\"{COMMIT}\"}}")) } else { Answer::new(404, "{}") };
        }
        if rest != format!("tree/{COMMIT}") {
            return Answer::new(404, "{}");
        }
        let from: usize = url.split("cursor=").nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
        let page = state.page.unwrap_or(usize::MAX);
        let entries: Vec<String> = state.files.iter().skip(from).take(page).map(|(p, c)| entry(p, c)).collect();
        let listing =
            format!("[{{\"type\":\"directory\",\"oid\":\"\",\"size\":0,\"path\":\"x\"}},{}]", entries.join(","));
        let mut answer = Answer::new(200, listing);
        if from.saturating_add(page) < state.files.len() {
            let here = url.split("&cursor").next().unwrap_or_default();
            answer.headers.push(("Link", format!("<{here}&cursor={}>; rel=\"next\"", from + page)));
        }
        answer
    }

    fn send(&self, mut stream: TcpStream, answer: Answer, throttle: Option<(usize, Duration)>) -> std::io::Result<()> {
        let Answer { status, headers, body, is_content, cut, drips } = answer;
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if drips {
            for byte in body.chunks(1) {
                stream.write_all(byte)?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let end = cut.map_or(body.len(), |(n, _)| n.min(body.len()));
        let (step, pause) = throttle.filter(|_| is_content).unwrap_or((usize::MAX, Duration::ZERO));
        for chunk in body[..end].chunks(step.min(64 << 10)) {
            stream.write_all(chunk)?;
            if is_content {
                self.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            }
            std::thread::sleep(pause);
        }
        if matches!(cut, Some((_, true))) {
            std::thread::sleep(Duration::from_secs(20));
        }
        stream.flush()
    }
}

/// One entry of the listing.
pub fn entry(path: &str, content: &[u8]) -> String {
    let (size, oid, path) = (content.len(), git_oid(content), serde_json::Value::from(path));
    let lfs = if is_large(path.as_str().unwrap_or_default()) {
        format!(",\"lfs\":{{\"oid\":\"{}\",\"size\":{size},\"pointerSize\":130}}", sha256(content))
    } else {
        String::new()
    };
    format!("{{\"type\":\"file\",\"oid\":\"{oid}\",\"size\":{size},\"path\":{path}{lfs}}}")
}

fn content_answer(state: &State, name: &str, content: &[u8], request: &Request, fault: Option<Fault>) -> Answer {
    let tag = format!("\"{}\"", if is_large(name) { sha256(content) } else { git_oid(content) });
    let mut content = content.to_vec();
    let size = content.len();
    let mut answer = Answer::new(200, Vec::new());
    let start = request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let fresh = request.headers.get("if-range").is_none_or(|t| *t == tag);
    let start: usize = start.filter(|_| fresh && !matches!(fault, Some(Fault::IgnoreRange))).unwrap_or(0);
    match fault {
        Some(Fault::Corrupt) => content.iter_mut().for_each(|b| *b ^= 0x55),
        Some(Fault::TooLong) => content.extend_from_slice(&[0; 10]),
        Some(Fault::Drip) => answer.drips = true,
        Some(Fault::Cut(n)) => answer.cut = Some((n, false)),
        Some(Fault::Stall(n)) => answer.cut = Some((n, true)),
        _ => {}
    }
    if start >= size && start > 0 {
        return Answer::new(416, "range");
    }
    if start > 0 {
        answer.status = 206;
        let first = if matches!(fault, Some(Fault::WrongRange)) { start + 1 } else { start };
        answer.headers.push(("Content-Range", format!("bytes {first}-{}/{size}", size - 1)));
    }
    if !state.no_etag {
        answer.headers.push(("ETag", tag));
    }
    answer.body = content.split_off(start);
    answer.is_content = true;
    answer
}
