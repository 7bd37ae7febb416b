//! A real server on a free port, a client for it, and a model whose tokens the test releases one by one.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use candle_coreml::backend::{CancelHandle, CoreMLGenerator, GeneratorInfo, SharedModel, Stats, TextGeneration};
use candle_coreml::generation::{Decoder, Message, Options, Step, Summary};
pub(crate) use candle_coreml_serve::Settings;
use candle_coreml_serve::{Models, Server};
use serde_json::{Value, json};

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)
}

/// A server that runs until dropped or shut down.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Settings of tests: a free port, one slot.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings { slots: 1, ..Settings::default() };
    settings.address.set_port(0);
    settings
}

/// Serves the shipped models.
pub(crate) fn serve(settings: Settings) -> Running {
    let named = |name: &str| (name.to_owned(), folder(name));
    run(Models::load(&[named("tiny-qwen3"), named("tiny-intent")], &settings).expect("the shipped models"), settings)
}

pub(crate) fn run(models: Models, settings: Settings) -> Running {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (tell, address) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
        runtime.block_on(async {
            let server = Server::bind(models, settings).await.expect("a free port");
            tell.send(server.address()).expect("the test waits");
            server.run(async { drop(ended.await) }).await;
        });
        // Detach threads that wait for tokens of a finished test.
        runtime.shutdown_background();
    });
    Running { address: address.recv().expect("it listens"), end: Some(end), thread: Some(thread) }
}

impl Running {
    /// Requests shutdown.
    pub(crate) fn end(&mut self) {
        self.end.take();
    }

    /// Waits for shutdown to complete.
    pub(crate) fn join(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Response to a request.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> ureq::http::Response<ureq::Body> {
        let request = agent().post(self.url(path)).content_type("application/json");
        request.send(body.to_string()).expect("an answer")
    }

    /// Status and body of a response.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut response = self.ask(path, body);
        let body = response.body_mut().read_to_string().expect("a body");
        (response.status().as_u16(), serde_json::from_str(&body).expect("JSON"))
    }

    /// Body of a response that must succeed.
    pub(crate) fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, body) = self.post(path, body);
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(self.url(path)).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a body"))
    }

    /// Value of a metric, 0 if missing; `name` includes labels.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").1;
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |v| v.parse().expect("a number"))
    }

    pub(crate) fn until(&self, name: &str, value: f64) {
        while self.figure(name) != value {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a request on a new connection, which is returned unread.
    pub(crate) fn send(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        let body = body.to_string();
        let head = "Host: localhost\r\nContent-Type: application/json\r\nConnection: close";
        write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
        stream
    }

    /// Events of a stream.
    pub(crate) fn events(&self, path: &str, body: &Value) -> Vec<String> {
        let response = self.ask(path, body);
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        events(response.into_body().into_reader())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().expect("no panic");
        }
    }
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// Data of the events sent by a server.
pub(crate) fn events(reader: impl std::io::Read) -> Vec<String> {
    let lines = BufReader::new(reader).lines().map_while(Result::ok);
    lines.filter_map(|l| l.strip_prefix("data: ").map(str::to_owned)).collect()
}

/// Concatenated text of a stream, and its finish reason.
pub(crate) fn joined(events: &[String]) -> (String, Option<String>) {
    let (mut text, mut reason) = (String::new(), None);
    for event in events.iter().filter(|e| *e != "[DONE]") {
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        let choice = &chunk["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default());
        reason = choice["finish_reason"].as_str().map(str::to_owned).or(reason);
    }
    (text, reason)
}

/// Greedy chat request with one question.
pub(crate) fn question(text: &str) -> Value {
    json!({"model": "tiny-qwen3", "temperature": 0, "messages": [{"role": "user", "content": text}]})
}

/// The request with more fields.
pub(crate) fn with(mut request: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        request[name] = value.clone();
    }
    request
}

/// Releases forward passes of a model.
#[derive(Default)]
pub(crate) struct Tap {
    allowed: Mutex<u64>,
    changed: Condvar,
}

impl Tap {
    pub(crate) fn allow(&self, passes: u64) {
        let mut allowed = self.allowed.lock().expect("no panic");
        *allowed = allowed.saturating_add(passes);
        self.changed.notify_all();
    }

    pub(crate) fn open(&self) {
        self.allow(u64::MAX);
    }

    fn pass(&self) {
        let closed = |n: &mut u64| *n == 0;
        let mut allowed = self.changed.wait_while(self.allowed.lock().expect("no panic"), closed).expect("no panic");
        if *allowed < u64::MAX {
            *allowed -= 1;
        }
    }
}

struct Tapped {
    inner: Box<dyn Decoder + Send>,
    letter: usize,
    /// Token that makes it panic.
    broken_by: Option<u32>,
    tap: Arc<Tap>,
}

impl Decoder for Tapped {
    fn tokens(&self) -> &[u32] {
        self.inner.tokens()
    }

    fn truncate(&mut self, length: usize) -> usize {
        self.inner.truncate(length)
    }

    fn context(&self) -> usize {
        self.inner.context()
    }

    fn forward(&mut self, ids: &[u32]) -> candle_coreml::Result<Vec<f32>> {
        self.tap.pass();
        assert!(!self.broken_by.is_some_and(|id| ids.contains(&id)), "this token was to break the model");
        let mut logits = self.inner.forward(ids)?;
        // Only the letter `a` is likely: answers end at their token limits.
        logits.fill(0.0);
        logits[self.letter] = 1.0;
        Ok(logits)
    }

    fn forward_with_shift(&mut self, id: u32) -> candle_coreml::Result<Vec<f32>> {
        self.forward(&[id])
    }
}

/// The shipped model behind a tap; may panic at the letter `Z`.
struct TappedModel(CoreMLGenerator, Arc<Tap>, bool);

impl TextGeneration for TappedModel {
    fn info(&self) -> GeneratorInfo {
        self.0.info()
    }

    fn stream(&mut self, p: &str, o: Options, on_token: &mut dyn FnMut(&Step)) -> candle_coreml::Result<Summary> {
        self.0.stream(p, o, on_token)
    }

    fn chat(&mut self, m: &[Message], o: Options, on_token: &mut dyn FnMut(&Step)) -> candle_coreml::Result<Summary> {
        self.0.chat(m, o, on_token)
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.0.cancel_handle()
    }

    fn set_cancel_handle(&mut self, handle: CancelHandle) {
        self.0.set_cancel_handle(handle);
    }

    fn share(&self) -> Option<SharedModel> {
        let (shared, tap) = (self.0.share()?, self.1.clone());
        let (info, vocab, tokenizer) = (shared.info().clone(), shared.vocab(), shared.tokenizer().clone());
        let letter = tokenizer.encode("a").ok()?[0] as usize;
        let broken_by = if self.2 { Some(tokenizer.encode("Z").ok()?[0]) } else { None };
        Some(SharedModel::new(info, vocab, tokenizer, move || {
            Ok(Box::new(Tapped { inner: shared.conversation()?, letter, broken_by, tap: tap.clone() }))
        }))
    }
}

/// Serves a model that generates `a` forever, one letter per released pass.
pub(crate) fn tapped(settings: Settings) -> (Running, Arc<Tap>) {
    tapped_with(settings, false)
}

/// [`tapped`] with `fragile`: panics at the letter `Z`.
pub(crate) fn tapped_with(settings: Settings, fragile: bool) -> (Running, Arc<Tap>) {
    let tap = Arc::new(Tap::default());
    let generator = CoreMLGenerator::load(folder("tiny-qwen3")).expect("the shipped model");
    let mut models = Models::default();
    models.add_language("tiny-qwen3", TappedModel(generator, tap.clone(), fragile), &settings).expect("it is shared");
    (run(models, settings), tap)
}
