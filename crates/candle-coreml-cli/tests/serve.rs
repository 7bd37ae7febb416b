//! `candle-coreml serve` from outside: start, requests, shutdown.
#![cfg(feature = "serve")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// A process that is killed when its test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("candle-coreml"));
    command.args(["serve", "--port", "0"]).env_remove("CANDLE_COREML_SERVE_KEY");
    command
}

/// Starts the server and returns the address that it prints.
fn start(command: &mut Command) -> (Process, String) {
    let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs"));
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it printed {line:?}"));
    (process, address.to_owned())
}

fn get(address: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn models_have_names_and_the_key_comes_from_the_environment() {
    let model = |name: &str| models().join(name).display().to_string();
    let (_process, address) = start(
        command()
            .args(["--model", &model("tiny-qwen3"), "--model", &format!("intents={}", model("tiny-intent"))])
            .env("CANDLE_COREML_SERVE_KEY", "s3cret"),
    );
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    assert!(get(&address, "/v1/models", "").starts_with("HTTP/1.1 401"));
    let list = get(&address, "/v1/models", "Authorization: Bearer s3cret\r\n");
    assert!(list.contains("\"id\":\"tiny-qwen3\"") && list.contains("\"id\":\"intents\""), "{list}");
}

#[test]
fn a_key_is_read_from_a_file_and_never_from_an_argument() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    std::fs::write(&file, "s3cret\n").expect("written");
    let (_process, address) = start(command().arg("--api-key-file").arg(&file));
    assert!(get(&address, "/v1/models", "").starts_with("HTTP/1.1 401"));
    assert!(get(&address, "/v1/models", "Authorization: Bearer s3cret\r\n").starts_with("HTTP/1.1 200"));
    // Both exit at once: the model does not exist.
    let said = |arguments: &[&str]| {
        let output = command().args(arguments).args(["--model", "./nowhere"]).output().expect("it runs");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let refused = said(&["--api-key", "s3cret"]);
    assert!(refused.contains("unexpected argument") && refused.contains("--api-key-file"), "{refused}");
    let file = file.display().to_string();
    assert!(!said(&["--api-key-file", &file]).contains("warning"));
    assert!(said(&["--api-key-file", "./no-key"]).contains("no-key"));
}

#[cfg(unix)]
#[test]
fn signals_end_it_with_success() {
    for signal in ["-TERM", "-INT"] {
        let (mut process, address) = start(&mut command());
        assert!(get(&address, "/health", "").contains("\"status\":\"ok\""));
        let sent = Command::new("kill").args([signal, &process.0.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        assert!(process.0.wait().expect("it ends").success(), "{signal}");
    }
}

#[cfg(unix)]
#[test]
fn a_server_that_runs_out_of_files_still_tells_its_health() {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64 && exec \"$0\" serve --port 0 --head-time 600"]);
    limited.arg(assert_cmd::cargo::cargo_bin("candle-coreml")).env_remove("CANDLE_COREML_SERVE_KEY");
    let (_process, address) = start(&mut limited);
    let _silent: Vec<_> = (0..150).map(|_| TcpStream::connect(&address).expect("it listens")).collect();
    for _ in 0..3 {
        assert!(get(&address, "/health", "").contains("\"status\":\"ok\""));
    }
}

#[test]
fn what_can_not_be_served_is_said_at_once() {
    let fail = |arguments: &[&str]| {
        let output = command().args(arguments).output().expect("it runs");
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let tiny = models().join("tiny-qwen3").display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (arguments, part) in [
        (vec!["--api-key-file", "/dev/null"], "the key is empty"),
        (vec!["--model", "./nowhere"], "nowhere"),
        (vec!["--model", &tiny, "--model", &tiny], "two models are called `tiny-qwen3`"),
        (vec!["--slots", "0"], "slots"),
        (vec!["--timeout", "0"], "timeout"),
        (vec!["--head-time", "0"], "head-time"),
        (vec!["--share", "0"], "share"),
        (vec!["--host", "localhost"], "host"),
    ] {
        let message = fail(&arguments);
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    let output = Command::new(assert_cmd::cargo::cargo_bin("candle-coreml"))
        .args(["serve", "--port", &port])
        .output()
        .expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains(&format!("can't listen on 127.0.0.1:{port}")), "{message}");
}

#[test]
fn running_servers_are_listed_and_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let verb = |arguments: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("candle-coreml"));
        let out = command.args(arguments).env("CANDLE_COREML_CACHE", folder.path()).output().expect("it runs");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    assert_eq!(verb(&["ps"]), (Some(0), String::new()));
    let (code, text) = verb(&["stop"]);
    assert!(code == Some(1) && text.contains("no server runs"), "{text}");
    let (mut process, address) = start(command().env("CANDLE_COREML_CACHE", folder.path()));
    let (_, text) = verb(&["ps", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&list[0]["address"], &list[0]["models"]),
        (&address.as_str().into(), &serde_json::json!(["tiny-qwen3"]))
    );
    assert_eq!(list[0]["pid"], process.0.id());
    let (code, text) = verb(&["stop", "no-such"]);
    assert!(code == Some(1) && text.contains("no server is `no-such`"), "{text}");
    // `stop` sees the process until its parent has waited for it.
    let stopping = std::thread::spawn(move || process.0.wait().expect("it ends").code());
    let (code, text) = verb(&["stop", &address]);
    assert!(code == Some(0) && text.contains("stopped"), "{text}");
    assert_eq!(stopping.join().expect("joined"), Some(0), "as after SIGTERM");
    assert_eq!(verb(&["ps"]), (Some(0), String::new()));
}
