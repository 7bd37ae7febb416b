//! `pull`, `list`, `path`, `rm`, `cache` and `generate --model org/name` from outside.
#![cfg(feature = "hub")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[path = "../../candle-coreml/tests/hub_server/mod.rs"]
mod hub_server;
use hub_server::{COMMIT, Server, read_tree, wanted};

const RECEIPT: &str = ".candle-coreml-receipt.json";

/// A command isolated to this server and cache, without user settings.
fn command(server: &Server, root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candle-coreml"));
    for variable in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env_remove(variable);
    }
    command.env("HF_ENDPOINT", server.url()).env("CANDLE_COREML_CACHE", root.join("cache"));
    command.env("HF_HOME", root.join("hf")).env("HOME", root).env_remove("XDG_CACHE_HOME").env_remove("HF_TOKEN_PATH");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(server: &Server, root: &Path, arguments: &[&str]) -> Output {
    command(server, root, arguments).output().expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

fn snapshot(root: &Path) -> PathBuf {
    root.join("cache/models--org--tiny/snapshots").join(COMMIT)
}

fn content(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = read_tree(folder);
    assert!(files.remove(RECEIPT).is_some(), "a receipt");
    files
}

#[test]
fn a_model_is_pulled_listed_used_and_deleted() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| run(&server, root.path(), arguments);
    assert!(failure(&run(&["path", "org/tiny"])).contains("candle-coreml pull org/tiny"));
    assert!(failure(&run(&["rm", "org/tiny"])).contains("not in the cache"));
    assert_eq!(success(&run(&["list"])), "");
    assert_eq!(success(&run(&["pull", "org/tiny"])), snapshot(root.path()).to_string_lossy());
    assert!(content(&snapshot(root.path())) == wanted());
    assert_eq!(success(&run(&["path", "org/tiny"])), snapshot(root.path()).to_string_lossy());
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&success(&run(arguments))).unwrap_or_else(|e| panic!("{arguments:?}: {e}"))
    };
    let place = serde_json::json!({ "id": "org/tiny", "path": snapshot(root.path()) });
    for verb in ["pull", "path"] {
        assert_eq!(json(&[verb, "org/tiny", "--json"]), place);
    }
    let plan = json(&["rm", "org/tiny", "--dry-run", "--json"]);
    assert_eq!((&plan["dry_run"], &plan["kept"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(plan["removed"][0]["name"], "org/tiny");
    assert_eq!(plan["bytes"], plan["removed"][0]["bytes"]);
    let list = success(&run(&["list"]));
    assert!(list.starts_with("org/tiny  0123456789  ") && list.contains("MB"), "{list}");
    let json: serde_json::Value = serde_json::from_str(&success(&run(&["list", "--json"]))).expect("JSON");
    assert_eq!((&json[0]["name"], &json[0]["commit"]), (&"org/tiny".into(), &COMMIT.into()));
    let requests = server.log().len();
    let answer = run(&["generate", "--model", "org/tiny", "--prompt", "What is the capital of Peru?"]);
    assert_eq!(success(&answer), "Lima");
    assert_eq!(server.log().len(), requests, "the cache is enough");
    assert!(success(&run(&["rm", "org/tiny", "--dry-run"])).contains("would delete"));
    assert!(snapshot(root.path()).is_dir());
    success(&run(&["rm", "org/tiny"]));
    assert!(!root.path().join("cache/models--org--tiny").exists());
}

#[test]
fn generate_downloads_what_it_needs_unless_offline() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let arguments = ["generate", "--model", "org/tiny", "--prompt", "What is the capital of Peru?"];
    let offline = command(&server, root.path(), &arguments).env("HF_HUB_OFFLINE", "1").output().expect("runs");
    assert!(failure(&offline).contains("HF_HUB_OFFLINE"));
    assert!(server.log().is_empty());
    assert_eq!(success(&run(&server, root.path(), &arguments)), "Lima");
    let offline = command(&server, root.path(), &arguments).env("HF_HUB_OFFLINE", "1").output().expect("runs");
    assert_eq!(success(&offline), "Lima");
    let unknown = failure(&run(&server, root.path(), &["generate", "--model", "org/none", "--prompt", "x"]));
    assert!(unknown.contains("no folder `org/none`") && unknown.contains("not found"), "{unknown}");
}

#[test]
fn tokens_come_from_the_environment_or_a_file() {
    let server = Server::start();
    server.change(|s| s.token = Some("hf_secret".to_owned()));
    let root = tempfile::tempdir().expect("a folder");
    assert!(failure(&run(&server, root.path(), &["pull", "org/tiny"])).contains("HF_TOKEN"));
    let mut with_variable = command(&server, root.path(), &["pull", "org/tiny@v1"]);
    success(&with_variable.env("HF_TOKEN", "hf_secret").output().expect("runs"));
    std::fs::create_dir(root.path().join("hf")).expect("a folder");
    std::fs::write(root.path().join("hf/token"), "hf_secret\n").expect("written");
    success(&run(&server, root.path(), &["pull", "org/tiny"]));
    let folder = root.path().join("own");
    success(&run(&server, root.path(), &["pull", "org/tiny", "--to", &folder.to_string_lossy()]));
    assert!(content(&folder) == wanted());
}

#[test]
fn the_cache_is_shown_and_cleaned() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| run(&server, root.path(), arguments);
    success(&run(&["pull", "org/tiny"]));
    assert!(success(&run(&["cache"])).contains("1 entries"));
    let info: serde_json::Value = serde_json::from_str(&success(&run(&["cache", "info", "--json"]))).expect("JSON");
    assert_eq!((&info["entries"][0]["kind"], &info["entries"][0]["name"]), (&"model".into(), &"org/tiny".into()));
    assert!(success(&run(&["cache", "clean", "--older-than", "1d"])).contains("would delete 0 entries"));
    assert!(success(&run(&["cache", "clean", "--max-size", "1GB", "--yes"])).contains("deleted 0 entries"));
    assert!(success(&run(&["cache", "clean", "--all"])).contains("--yes deletes"), "no terminal: a dry run");
    assert!(success(&run(&["cache", "clean", "--all", "--dry-run"])).contains("would delete 1 entries"));
    assert!(snapshot(root.path()).is_dir());
    assert!(failure(&run(&["cache", "clean", "--pattern", "["])).contains("not a pattern"));
    for wrong in [
        &["cache", "clean"][..],
        &["cache", "clean", "--all", "--max-size", "1GB"],
        &["cache", "clean", "--max-size", "x"],
    ] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert!(success(&run(&["cache", "clean", "--pattern", "org/*", "--yes"])).contains("deleted 1 entries"));
    assert!(!snapshot(root.path()).exists());
}

#[test]
fn two_processes_share_one_download() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let locks = root.path().join("cache/.locks");
    std::fs::create_dir_all(&locks).expect("a folder");
    let lock = std::fs::File::create(locks.join("models--org--tiny.lock")).expect("a lock");
    lock.lock().expect("locked");
    let mut children: Vec<_> =
        (0..2).map(|_| command(&server, root.path(), &["pull", "org/tiny"]).spawn().expect("started")).collect();
    for child in &mut children {
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert!(line.contains("waiting for it"), "{line}");
    }
    assert_eq!(server.count("/resolve/"), 0, "nobody downloads without the lock");
    drop(lock);
    for child in children {
        assert_eq!(success(&child.wait_with_output().expect("ended")), snapshot(root.path()).to_string_lossy());
    }
    let bytes: usize = wanted().values().map(Vec::len).sum();
    assert_eq!(server.sent(), bytes as u64, "every byte is sent once");
    assert!(content(&snapshot(root.path())) == wanted());
}

/// Bytes of content in a cache, complete or partial.
fn on_disk(root: &Path) -> u64 {
    let model = root.join("cache/models--org--tiny");
    let folders = [model.join("parts"), model.join("snapshots")];
    let files = folders.iter().filter(|f| f.is_dir()).flat_map(|f| read_tree(f));
    let content =
        files.filter(|(path, _)| !path.ends_with(".etag") && !path.ends_with(".tmp") && !path.contains(RECEIPT));
    content.map(|(_, c)| c.len() as u64).sum()
}

#[cfg(unix)]
#[test]
fn ctrl_c_cancels_a_download_which_goes_on_later() {
    let server = Server::start();
    server.change(|s| s.throttle = Some((8 << 10, Duration::from_millis(20))));
    let root = tempfile::tempdir().expect("a folder");
    let child = command(&server, root.path(), &["pull", "org/tiny"]).spawn().expect("started");
    let started = Instant::now();
    while server.sent() < 64 << 10 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    let asked = Instant::now();
    let out = child.wait_with_output().expect("ended");
    assert!(sent.success() && asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
    assert!(text(&out.stderr).ends_with("cancelled"), "{}", text(&out.stderr));
    assert!(!snapshot(root.path()).exists());
    server.change(|s| s.throttle = None);
    success(&run(&server, root.path(), &["pull", "org/tiny"]));
}

/// After a kill at any moment, the next run resumes: nothing corrupt is published, and received data is kept.
#[test]
fn killed_downloads_are_continued() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = 0x2545_F491_4F6C_DD1D ^ seed;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut files = read_tree(&hub_server::tiny());
    for i in 0..4 {
        let content: Vec<u8> = (0..8 << 20).map(|_| next() as u8).collect();
        files.insert(format!("extra{i}.mlpackage/Data/weights/weight.bin"), content);
    }
    let mut expected = files.clone();
    expected.retain(|path, _| !path.ends_with(".md") && !path.ends_with(".jsonl"));
    let size: u64 = expected.values().map(|c| c.len() as u64).sum();
    let server = Server::with(files);
    server.change(|s| s.throttle = Some((64 << 10, Duration::from_millis(10))));
    let root = tempfile::tempdir().expect("a folder");
    let mut kept = 0;
    for i in 0..15 {
        let mut child = command(&server, root.path(), &["pull", "org/tiny"]).spawn().expect("started");
        // Some are killed while starting, the others after a random share of the content.
        let (before, amount, started) = (server.sent(), next() % (4 << 20), Instant::now());
        let early = (i % 5 == 0).then(|| Duration::from_millis(next() % 50));
        while server.sent() - before < amount
            && early.is_none_or(|e| started.elapsed() < e)
            && started.elapsed() < Duration::from_secs(60)
            && child.try_wait().expect("a child").is_none()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SIGKILL on Unix.
        child.kill().expect("killed");
        child.wait().expect("ended");
        if snapshot(root.path()).exists() {
            assert!(content(&snapshot(root.path())) == expected, "published, but not complete");
        }
        let now = on_disk(root.path());
        assert!(now >= kept, "{now} bytes are left of {kept}");
        kept = now;
    }
    assert!(kept > 0, "some were killed while files were sent");
    // The server may still be writing to connections of killed processes.
    let mut before = server.sent();
    while {
        std::thread::sleep(Duration::from_millis(200));
        before != server.sent()
    } {
        before = server.sent();
    }
    success(&run(&server, root.path(), &["pull", "org/tiny"]));
    assert_eq!(server.sent() - before, size - kept, "only what is missing is sent");
    assert!(content(&snapshot(root.path())) == expected);
    let info = success(&run(&server, root.path(), &["cache", "info", "--json"]));
    assert!(!info.contains("unfinished"), "{info}");
}

/// Conversion takes repositories, with the folders of sentence-transformers' modules.
#[test]
fn an_encoder_on_the_hub_is_converted() {
    let encoders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/encoders");
    let mut files = read_tree(&encoders.join("xlm-roberta-max-f16"));
    files.insert("onnx/model.onnx".to_owned(), vec![0; 100]);
    files.insert("unused/model.safetensors".to_owned(), vec![0; 100]);
    let server = Server::with(files);
    let root = tempfile::tempdir().expect("a folder");
    let out = root.path().join("encoder");
    let place = out.to_string_lossy();
    let arguments = ["convert", "org/tiny", "--to", "encoder", "--quiet", "--out", &place];
    assert_eq!(success(&run(&server, root.path(), &arguments)), place);
    assert!(out.join("encoder.mlpackage/Manifest.json").is_file() && out.join("1_Pooling/config.json").is_file());
    assert!(!snapshot(root.path()).join("onnx").exists() && !snapshot(root.path()).join("unused").exists());
    let text = failure(&run(&server, root.path(), &["convert", "org/none", "--out", "x"]));
    assert!(text.contains("org/none"), "{text}");
    let wrong = ["convert", "org/tiny", "--to", "encoder", "--argmax", "--out", "x"];
    let text = failure(&run(&server, root.path(), &wrong));
    assert!(text.contains("--argmax does not go with --to encoder"), "{text}");
}
