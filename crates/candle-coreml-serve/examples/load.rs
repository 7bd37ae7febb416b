//! Load test against a running server: checks for lost or mixed-up answers, and measures token latency and the growth
//! of the server's memory.
//!
//! ```sh
//! candle-coreml serve --port 8080 &
//! cargo run --release -p candle-coreml-serve --example load -- --pid $! --clients 64 --seconds 120
//! ```
//!
//! First requests greedy answers one by one; then each client expects exactly these. Exits with status 1 if one differs
//! or fails. Rejected requests (429) are counted and retried.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

/// Load-test a server.
#[derive(Debug, Parser)]
struct Args {
    /// URL of the server.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Model name; defaults to the server's first model.
    #[arg(long)]
    model: Option<String>,
    /// API key of the server.
    #[arg(long, env = "CANDLE_COREML_SERVE_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Number of concurrent clients.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Seconds during which new requests are made.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Questions file: one JSON object with `question` per line.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3/heldout.jsonl"))]
    questions: PathBuf,
    /// Number of questions to ask.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Maximum tokens per answer.
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// Process id of the server, to monitor its memory (Linux).
    #[arg(long)]
    pid: Option<u32>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measurements of the clients, in seconds.
#[derive(Debug, Default)]
struct Seen {
    first: Vec<f64>,
    next: Vec<f64>,
    right: usize,
    busy: usize,
    wrong: Vec<String>,
}

struct Client<'a> {
    args: &'a Args,
    model: &'a str,
    agent: ureq::Agent,
}

impl Client<'_> {
    fn ask(&self, question: &str) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let body = json!({
            "model": self.model, "temperature": 0, "max_tokens": self.args.max_tokens, "stream": true,
            "messages": [{"role": "user", "content": question}],
        });
        let url = format!("{}/v1/chat/completions", self.args.url);
        let request = self.agent.post(url).content_type("application/json");
        let request = match &self.args.api_key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        };
        Ok(request.send(body.to_string())?)
    }

    /// Requests one answer; `None` if the server was busy.
    fn answer(&self, question: &str, seen: &mut Seen) -> Result<Option<String>, Failure> {
        let started = Instant::now();
        let response = self.ask(question)?;
        match response.status().as_u16() {
            200 => {}
            429 => return Ok(None),
            other => return Err(format!("status {other}: {}", response.into_body().read_to_string()?).into()),
        }
        let (mut text, mut last) = (String::new(), started);
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line?;
            match line.strip_prefix("data: ") {
                Some("[DONE]") => return Ok(Some(text)),
                Some(data) => {
                    let chunk: Value = serde_json::from_str(data)?;
                    if !chunk["error"].is_null() {
                        return Err(data.into());
                    }
                    let piece = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
                    if !piece.is_empty() {
                        let now = Instant::now();
                        let times = if text.is_empty() { &mut seen.first } else { &mut seen.next };
                        times.push((now - last).as_secs_f64());
                        (last, text) = (now, text + piece);
                    }
                }
                None => {}
            }
        }
        Err("the stream ended without [DONE]".into())
    }

    /// Sends requests until the time is over.
    fn run(&self, number: usize, all: &[(String, String)], until: Instant) -> Seen {
        let mut seen = Seen::default();
        for turn in 0.. {
            if Instant::now() >= until {
                break;
            }
            let (question, expected) = &all[(number * 7 + turn * 3) % all.len()];
            match self.answer(question, &mut seen) {
                Ok(Some(text)) if text == *expected => seen.right += 1,
                Ok(Some(text)) => seen.wrong.push(format!("{question}: expected {expected:?}, found {text:?}")),
                Ok(None) => {
                    seen.busy += 1;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Err(e) => seen.wrong.push(format!("{question}: {e}")),
            }
        }
        seen
    }
}

/// Resident memory of a process in MiB.
fn resident(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kb| kb / 1024.0)
}

fn times(name: &str, values: &mut [f64]) {
    if values.is_empty() {
        return;
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| 1000.0 * values[((values.len() - 1) as f64 * share).round() as usize];
    println!("{name}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, most {:.1} ms", at(0.5), at(0.9), at(0.99), at(1.0));
}

fn run(args: &Args) -> Result<bool, Failure> {
    let agent = || ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let model = match &args.model {
        Some(model) => model.clone(),
        None => {
            let request = ureq::Agent::get(&agent(), format!("{}/v1/models", args.url));
            let request = match &args.api_key {
                Some(key) => request.header("Authorization", format!("Bearer {key}")),
                None => request,
            };
            let list: Value = serde_json::from_str(&request.call()?.body_mut().read_to_string()?)?;
            list["data"][0]["id"].as_str().ok_or("the server has no model")?.to_owned()
        }
    };
    let client = || Client { args, model: &model, agent: agent() };
    let mut all = Vec::new();
    let first = client();
    for line in std::fs::read_to_string(&args.questions)?.lines().take(args.count) {
        let row: Value = serde_json::from_str(line)?;
        let question = row["question"].as_str().ok_or("a line has no question")?.to_owned();
        let answer = first.answer(&question, &mut Seen::default())?.ok_or("the server is busy already")?;
        all.push((question, answer));
    }
    if all.is_empty() {
        return Err("there are no questions".into());
    }
    println!("{} answers known; {} clients for {} s", all.len(), args.clients, args.seconds);

    let (started, total) = (Instant::now(), Mutex::new(Seen::default()));
    let until = started + Duration::from_secs(args.seconds);
    std::thread::scope(|scope| {
        for number in 0..args.clients {
            let (client, all, total) = (client(), &all, &total);
            scope.spawn(move || {
                let seen = client.run(number, all, until);
                let mut total = total.lock().unwrap_or_else(|e| e.into_inner());
                total.first.extend(seen.first);
                total.next.extend(seen.next);
                total.wrong.extend(seen.wrong);
                total.right += seen.right;
                total.busy += seen.busy;
            });
        }
        if let Some(pid) = args.pid {
            scope.spawn(move || {
                while Instant::now() < until {
                    if let Some(mib) = resident(pid) {
                        println!("after {:3.0} s: {mib:.1} MiB resident", started.elapsed().as_secs_f64());
                    }
                    std::thread::sleep(Duration::from_secs(10).min(until.saturating_duration_since(Instant::now())));
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    if let Some(mib) = args.pid.and_then(resident) {
        println!("at the end: {mib:.1} MiB resident");
    }
    let mut seen = total.into_inner().unwrap_or_else(|e| e.into_inner());
    let tokens = seen.first.len() + seen.next.len();
    println!("{} answers as expected; {} turned away; {} lost or wrong", seen.right, seen.busy, seen.wrong.len());
    println!("{:.1} answers/s, {:.1} pieces/s in all", seen.right as f64 / seconds, tokens as f64 / seconds);
    times("time to first piece", &mut seen.first);
    times("time per further piece", &mut seen.next);
    for wrong in seen.wrong.iter().take(10) {
        println!("WRONG {wrong}");
    }
    Ok(seen.wrong.is_empty())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
