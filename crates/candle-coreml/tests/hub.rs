//! The hub client against a misbehaving server.
#![cfg(feature = "hub")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_coreml::Task;
use candle_coreml::hub::{Event, Hub, HubError, RetryPolicy};

mod hub_server;
use hub_server::{COMMIT, Fault, Server, read_tree, wanted};

const WEIGHT: &str = "qwen_lm_head_lut8.mlpackage/Data/com.apple.CoreML/weights/weight.bin";
const RECEIPT: &str = ".candle-coreml-receipt.json";

/// Delays that a client would have slept.
type Pauses = Arc<Mutex<Vec<Duration>>>;

fn hub(server: &Server, root: &Path) -> (Hub, Pauses) {
    let pauses = Pauses::default();
    let noted = pauses.clone();
    let sleep = Arc::new(move |d| noted.lock().expect("not poisoned").push(d));
    let retry = RetryPolicy { sleep, ..RetryPolicy::default() };
    (Hub::new(root).endpoint(server.url()).retry(retry).patience(Duration::from_secs(20)), pauses)
}

/// Downloads from a server into a fresh cache.
fn download(server: &Server) -> (tempfile::TempDir, Result<std::path::PathBuf, HubError>, Vec<Duration>) {
    let root = tempfile::tempdir().expect("a folder");
    let (hub, pauses) = hub(server, root.path());
    let result = hub.download("org/tiny");
    let pauses = pauses.lock().expect("not poisoned").clone();
    (root, result, pauses)
}

fn assert_complete(folder: &Path) {
    let mut found = read_tree(folder);
    assert!(found.remove(RECEIPT).is_some(), "a receipt");
    let expected = wanted();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(found == expected, "the contents differ");
}

/// Nothing is published, and nothing is outside the cache's own folders.
fn assert_nothing_published(root: &Path) {
    let snapshots = root.join("models--org--tiny/snapshots");
    let names = std::fs::read_dir(&snapshots).into_iter().flatten().flatten().map(|e| e.file_name());
    let published: Vec<_> = names.filter(|n| !n.to_string_lossy().ends_with(".partial")).collect();
    assert!(published.is_empty(), "{published:?}");
}

#[test]
fn a_model_is_downloaded_once_and_then_found() {
    let server = Server::start();
    server.change(|s| s.page = Some(5));
    let root = tempfile::tempdir().expect("a folder");
    let (hub, _) = hub(&server, root.path());
    assert_eq!(hub.cached("org/tiny").expect("a name"), None);
    let folder = hub.download("org/tiny").expect("downloaded");
    assert_complete(&folder);
    assert_eq!(folder, root.path().join("models--org--tiny/snapshots").join(COMMIT));
    assert_eq!(server.count("README"), 0, "only what is needed");
    assert!(server.count("tree/") > 2, "in pages");
    let requests = server.log().len();
    assert_eq!(hub.ensure("org/tiny").expect("there"), folder);
    assert_eq!(hub.cached(&format!("org/tiny@{COMMIT}")).expect("a name"), Some(folder.clone()));
    assert_eq!(server.log().len(), requests, "the cache answers without the network");
    assert_eq!(hub.download("org/tiny@refs/pr/1").expect("the same commit"), folder);
    assert_eq!(server.count("revision/refs%2Fpr%2F1"), 1);
    assert_eq!(hub.cached("org/tiny@refs/pr/1").expect("a name"), Some(folder));
    let parts = std::fs::read_dir(root.path().join("models--org--tiny/parts")).expect("parts").count();
    assert_eq!(parts, 0, "no part is left");
}

#[test]
fn passing_failures_are_repeated_with_growing_pauses() {
    let server = Server::start();
    server.fault("revision/", 2, Fault::Status(503, vec![]));
    server.fault("tree/", 1, Fault::Refuse);
    server.fault("tokenizer.json", 1, Fault::Status(429, vec![("Retry-After", "7".to_owned())]));
    let (_root, result, pauses) = download(&server);
    assert_complete(&result.expect("downloaded in the end"));
    let mut seconds: Vec<f32> = pauses.iter().map(Duration::as_secs_f32).collect();
    seconds.sort_by(f32::total_cmp);
    assert_eq!(seconds, [0.5, 0.5, 1.0, 7.0]);
}

#[test]
fn endless_failures_end_with_an_error_that_names_the_file() {
    let server = Server::start();
    server.fault(WEIGHT, usize::MAX, Fault::Status(500, vec![]));
    let (root, result, pauses) = download(&server);
    let error = result.expect_err("it never works");
    assert_eq!(error.kind(), "network");
    assert!(error.to_string().contains(WEIGHT) && error.to_string().contains("HTTP 500"), "{error}");
    assert_eq!(pauses.len(), 4);
    assert_nothing_published(root.path());
}

#[test]
fn cut_and_stalled_connections_go_on_where_they_ended() {
    for fault in [Fault::Cut(40_000), Fault::Stall(40_000)] {
        let server = Server::start();
        server.fault(WEIGHT, 1, fault);
        let root = tempfile::tempdir().expect("a folder");
        let hub = hub(&server, root.path()).0.patience(Duration::from_secs(1));
        assert_complete(&hub.download("org/tiny").expect("downloaded"));
        let again =
            server.log().into_iter().filter(|r| r.cdn && r.path.contains(WEIGHT)).nth(1).expect("a second request");
        let from: usize =
            again.headers["range"].trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a number");
        assert_eq!(from, 40_000);
        assert!(again.headers["if-range"].starts_with('"'));
    }
}

#[test]
fn servers_that_drip_do_not_hold_a_download_for_ever() {
    let server = Server::start();
    server.fault("tree/", 1, Fault::Drip);
    server.fault(WEIGHT, 1, Fault::Drip);
    let root = tempfile::tempdir().expect("a folder");
    let (hub, pauses) = hub(&server, root.path());
    assert_complete(&hub.patience(Duration::from_secs(1)).download("org/tiny").expect("downloaded"));
    assert!(pauses.lock().expect("not poisoned").len() >= 2);
    assert!(server.log().iter().filter(|r| r.cdn && r.path.contains(WEIGHT)).count() >= 2);
}

#[test]
fn servers_that_mistreat_ranges_do_no_harm() {
    for fault in [Fault::IgnoreRange, Fault::WrongRange, Fault::Status(416, vec![]), Fault::TooLong] {
        for no_etag in [false, true] {
            let server = Server::start();
            server.change(|s| s.no_etag = no_etag);
            server.fault(WEIGHT, 1, Fault::Cut(1000));
            server.fault(WEIGHT, 1, fault.clone());
            let (_root, result, _) = download(&server);
            assert_complete(&result.unwrap_or_else(|e| panic!("{fault:?}: {e}")));
        }
    }
}

#[test]
fn wrong_content_is_fetched_once_more_and_then_refused() {
    for file in [WEIGHT, "tokenizer.json"] {
        let server = Server::start();
        server.fault(file, 1, Fault::Corrupt);
        let (_root, result, _) = download(&server);
        assert_complete(&result.expect("right the second time"));
        let server = Server::start();
        server.fault(file, usize::MAX, Fault::Corrupt);
        let (root, result, _) = download(&server);
        let error = result.expect_err("wrong twice");
        assert!(matches!(&error, HubError::Checksum { file: f, .. } if f == file), "{error}");
        assert_nothing_published(root.path());
        assert_eq!(
            server.log().iter().filter(|r| r.path.contains(file)).filter(|r| r.cdn == (file == WEIGHT)).count(),
            2
        );
        let left = read_tree(&root.path().join("models--org--tiny"));
        let name = Path::new(file).file_name().expect("a name").to_string_lossy().into_owned();
        let bad =
            left.keys().filter(|p| p.ends_with(&name)).filter(|p| p.contains("lm_head") || file != WEIGHT).count();
        assert_eq!(bad, 0, "wrong content is not kept");
    }
}

#[test]
fn the_token_stays_with_its_host() {
    let server = Server::start();
    server.change(|s| s.token = Some("hf_secret".to_owned()));
    let (root, result, _) = download(&server);
    let error = result.expect_err("no token");
    assert_eq!(error.kind(), "denied");
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    let (hub, _) = hub(&server, root.path());
    let hub = hub.token(Some("hf_secret".to_owned()));
    assert!(!format!("{hub:?}").contains("hf_secret"));
    assert_complete(&hub.download("org/tiny").expect("with a token"));
    let log = server.log();
    assert!(log.iter().any(|r| r.cdn) && log.iter().all(|r| !r.cdn || !r.headers.contains_key("authorization")));
    let wrong = hub.token(Some("hf_other".to_owned())).download("org/tiny").expect_err("a wrong token");
    assert!(wrong.to_string().contains("licence") && !wrong.to_string().contains("hf_other"), "{wrong}");
}

#[test]
fn what_does_not_exist_is_said() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let (hub, pauses) = hub(&server, root.path());
    for id in ["org/other", "org/tiny@v9"] {
        let error = hub.download(id).expect_err(id);
        assert_eq!(error.kind(), "not-found");
        assert!(error.to_string().contains(id), "{error}");
    }
    assert_eq!(hub.download("../tiny").expect_err("a path").kind(), "id");
    server.fault(
        "revision/",
        1,
        Fault::Status(403, vec![("X-Error-Message", "Access to it is restricted".to_owned())]),
    );
    let error = hub.download("org/tiny").expect_err("refused");
    assert!(error.to_string().contains("403") && error.to_string().contains("restricted"), "{error}");
    server.change(|s| s.files.clear());
    server.change(|s| drop(s.files.insert("README.md".to_owned(), b"no model".to_vec())));
    assert!(hub.download("org/tiny").expect_err("no model").to_string().contains("no Core ML components"));
    assert!(pauses.lock().expect("not poisoned").is_empty(), "none of this is worth repeating");
}

#[test]
fn listings_that_make_no_sense_are_refused() {
    let cases: [(&str, &str); 7] = [
        ("revision/main", "{\"sha\":\"../../etc\"}"),
        ("revision/main", "<html>"),
        ("tree", "{}"),
        ("tree", "[{\"type\":\"file\",\"path\":\"a.mlpackage/x\",\"size\":1,\"oid\":\"zz\"}]"),
        ("tree", "[{\"type\":\"file\",\"path\":\"a.mlpackage/x\",\"size\":-1,\"oid\":\"zz\"}]"),
        ("tree", "[{\"type\":\"file\",\"path\":5}]"),
        ("tree", ""),
    ];
    for (path, text) in cases {
        let server = Server::start();
        let path = if path == "tree" { format!("tree/{COMMIT}") } else { path.to_owned() };
        server.change(|s| drop(s.raw.insert(format!("/api/models/org/tiny/{path}"), text.to_owned())));
        let (root, result, _) = download(&server);
        assert_eq!(result.expect_err(text).kind(), "answer", "{text}");
        assert_nothing_published(root.path());
    }
}

#[test]
fn hostile_names_write_nothing() {
    for name in
        ["../../../evil", "/tmp/evil", "a\\..\\evil", "a.mlpackage/\0", "nul", "a.mlpackage/../../evil", "C:/evil"]
    {
        let server = Server::start();
        server.change(|s| drop(s.files.insert(name.to_owned(), b"evil".to_vec())));
        let outer = tempfile::tempdir().expect("a folder");
        let root = outer.path().join("cache");
        let error = hub(&server, &root).0.download("org/tiny").expect_err(name);
        assert_eq!(error.kind(), "name", "{error}");
        assert_eq!(server.count("/resolve/"), 0);
        assert!(read_tree(outer.path()).keys().all(|p| p.starts_with("cache/")));
    }
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_fetched() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let full = hub(&server, root.path()).0.free_space(|_| Ok(1_000_000));
    let error = full.download("org/tiny").expect_err("full");
    assert!(matches!(error, HubError::Space { available: 1_000_000, needed: 1_800_000.., .. }), "{error}");
    assert_eq!(server.count("/resolve/"), 0);
    assert_complete(&hub(&server, root.path()).0.download("org/tiny").expect("after making room"));
}

#[test]
fn nothing_is_fetched_without_consent() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let hub = hub(&server, root.path()).0.consent(move |bytes| {
        let mut asked = heard.lock().expect("a list");
        asked.push(bytes);
        asked.len() > 1
    });
    let error = hub.ensure("org/tiny").expect_err("declined");
    assert_eq!((error.kind(), server.count("/resolve/")), ("declined", 0), "{error}");
    assert_complete(&hub.ensure("org/tiny").expect("agreed"));
    assert_complete(&hub.ensure("org/tiny").expect("there, without a question"));
    let asked = asked.lock().expect("a list");
    assert!(matches!(asked[..], [a, b] if a == b && a > 1_800_000), "{asked:?}");
}

#[test]
fn offline_means_no_request() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let (online, _) = hub(&server, root.path());
    let offline = online.clone().offline(true);
    assert_eq!(offline.ensure("org/tiny").expect_err("not there").kind(), "offline");
    assert_eq!(offline.download_to("org/tiny", &root.path().join("x")).expect_err("offline").kind(), "offline");
    assert!(server.log().is_empty());
    let folder = online.download("org/tiny").expect("downloaded");
    let requests = server.log().len();
    assert_eq!(offline.ensure("org/tiny").expect("there"), folder);
    assert_eq!(offline.download("org/tiny").expect("there"), folder);
    assert_eq!(server.log().len(), requests);
}

#[test]
fn a_damaged_model_is_completed_again() {
    let server = Server::start();
    let (root, result, _) = download(&server);
    let folder = result.expect("downloaded");
    std::fs::write(folder.join(WEIGHT), b"short").expect("written");
    std::fs::remove_file(folder.join("meta.yaml")).expect("removed");
    let (hub, _) = hub(&server, root.path());
    assert_eq!(hub.cached("org/tiny").expect("a name"), None);
    let before = server.sent();
    assert_complete(&hub.ensure("org/tiny").expect("completed"));
    let size = wanted()[WEIGHT].len() + wanted()["meta.yaml"].len();
    assert_eq!(server.sent() - before, size as u64, "only the two files are fetched");
}

#[test]
fn the_cache_of_hugging_face_is_used_where_it_is_complete() {
    let server = Server::start();
    let (root, foreign) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let model = foreign.path().join("models--org--tiny");
    let snapshot = model.join("snapshots").join(COMMIT);
    for (path, content) in wanted() {
        let target = snapshot.join(path);
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("a folder");
        std::fs::write(target, content).expect("written");
    }
    std::fs::create_dir_all(model.join("refs")).expect("a folder");
    std::fs::write(model.join("refs/main"), COMMIT).expect("written");
    let before = read_tree(foreign.path());
    let (hub, _) = hub(&server, root.path());
    let hub = hub.foreign_cache(Some(foreign.path().to_owned()));
    assert_eq!(hub.clone().offline(true).ensure("org/tiny").expect("offline"), snapshot);
    assert_eq!(hub.download("org/tiny").expect("online"), snapshot);
    assert_eq!(server.count("/resolve/"), 0);
    assert!(read_tree(foreign.path()) == before, "it is never written");
    std::fs::remove_file(snapshot.join(WEIGHT)).expect("removed");
    assert_eq!(hub.cached("org/tiny").expect("a name"), None);
    assert_complete(&hub.ensure("org/tiny").expect("downloaded"));
    // A cache set to that folder by mistake does not mix with it.
    assert_eq!(Hub::new(foreign.path()).endpoint(server.url()).download("org/tiny").expect_err("foreign").kind(), "io");
}

#[test]
fn a_model_can_have_a_folder_of_its_own() {
    let server = Server::start();
    let (root, outer) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (hub, _) = hub(&server, root.path());
    let target = outer.path().join("new/model");
    server.fault(WEIGHT, usize::MAX, Fault::Cut(10));
    assert!(hub.download_to("org/tiny", &target).is_err());
    assert!(!target.exists());
    server.change(|s| s.faults.clear());
    let folder = hub.download_to("org/tiny", &target).expect("downloaded");
    assert_complete(&folder);
    assert_eq!(std::fs::read_dir(outer.path().join("new")).expect("entries").count(), 1, "nothing else is left");
    let before = server.sent();
    hub.download_to("org/tiny", &target).expect("there");
    assert_eq!(server.sent(), before);
    let other = outer.path().join("mine");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::write(other.join("thesis.txt"), "x").expect("written");
    assert_eq!(hub.download_to("org/tiny", &other).expect_err("not empty").kind(), "settings");
    assert_eq!(read_tree(&other).len(), 1);
    assert_eq!(hub.download_to("org/tiny", &other.join("thesis.txt")).expect_err("a file").kind(), "settings");
}

#[test]
fn single_components_come_alone() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let (hub, _) = hub(&server, root.path());
    let path = hub.ensure_file("org/tiny", "qwen_lm_head_lut8.mlpackage").expect("downloaded");
    assert!(read_tree(&path).len() == 3 && path.ends_with("qwen_lm_head_lut8.mlpackage"));
    assert_eq!(server.count("embeddings"), 0);
    let requests = server.log().len();
    assert_eq!(hub.ensure_file("org/tiny", "qwen_lm_head_lut8.mlpackage").expect("there"), path);
    assert_eq!(server.log().len(), requests);
    assert_eq!(hub.cached("org/tiny").expect("a name"), None, "the model is not complete by this");
    assert_eq!(hub.ensure_file("org/tiny", "no.mlpackage").expect_err("absent").kind(), "answer");
    assert_eq!(hub.ensure_file("org/tiny", "../x").expect_err("hostile").kind(), "name");
}

#[test]
fn zipped_components_are_unpacked() {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("head.mlmodelc/model.mil", zip::write::SimpleFileOptions::default()).expect("started");
    zip.write_all(b"program").expect("written");
    let archive = zip.finish().expect("finished").into_inner();
    let files = BTreeMap::from([("head.mlmodelc.zip".to_owned(), archive), ("config.json".to_owned(), b"{}".to_vec())]);
    let server = Server::with(files);
    let (root, result, _) = download(&server);
    let folder = result.expect("downloaded");
    let names: Vec<String> = read_tree(&folder).into_keys().collect();
    assert_eq!(names, [RECEIPT, "config.json", "head.mlmodelc/model.mil"]);
    let (hub, _) = hub(&server, root.path());
    assert_eq!(hub.cached("org/tiny").expect("a name"), Some(folder));
    let bad = BTreeMap::from([("head.mlmodelc.zip".to_owned(), b"PK no archive".to_vec())]);
    let (root, result, _) = download(&Server::with(bad));
    assert_eq!(result.expect_err("no archive").kind(), "archive");
    assert_nothing_published(root.path());
}

#[test]
fn redirects_are_bounded_and_stay_http() {
    for location in ["/org/tiny/resolve/loop", "file:///etc/passwd", "ftp://x/y"] {
        let server = Server::start();
        server.fault("tokenizer.json", usize::MAX, Fault::Status(302, vec![("Location", location.to_owned())]));
        server.fault("resolve/loop", usize::MAX, Fault::Status(302, vec![("Location", location.to_owned())]));
        let (_root, result, _) = download(&server);
        assert_eq!(result.expect_err(location).kind(), "answer");
    }
    let settings = Hub::new("/nonexistent").endpoint("ftp://hub").download("org/tiny").expect_err("no http");
    assert_eq!(settings.kind(), "settings");
}

#[test]
fn two_downloads_of_a_model_do_not_fight() {
    let server = Server::start();
    server.change(|s| s.throttle = Some((64 << 10, Duration::from_millis(100))));
    let root = tempfile::tempdir().expect("a folder");
    let waited = Arc::new(Mutex::new(0));
    let noted = waited.clone();
    let observer = Arc::new(move |e: &Event<'_>| {
        if *e == Event::Waiting {
            *noted.lock().expect("not poisoned") += 1;
        }
    });
    let hub = hub(&server, root.path()).0.observer(observer);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_complete(&hub.download("org/tiny").expect("downloaded")));
        }
    });
    assert_eq!(*waited.lock().expect("not poisoned"), 1);
    let bytes: usize = wanted().values().map(Vec::len).sum();
    assert_eq!(server.sent(), bytes as u64, "every byte is sent once");
}

#[test]
fn a_cancelled_download_publishes_nothing_and_goes_on_later() {
    let server = Server::start();
    server.change(|s| s.throttle = Some((16 << 10, Duration::from_millis(5))));
    let root = tempfile::tempdir().expect("a folder");
    let (hub, _) = hub(&server, root.path());
    let handle = Task::new();
    let cancel = handle.clone();
    let task = Task::with_progress(move |step| {
        assert!(step.done <= step.total, "{step}");
        if step.done > 32 << 10 {
            cancel.cancel();
        }
    });
    let error = handle.run(|| task.run(|| hub.download("org/tiny"))).expect_err("cancelled");
    assert!(matches!(error, HubError::Stopped(_)), "{error}");
    assert_eq!(candle_coreml::Error::from(error).kind(), candle_coreml::ErrorKind::Cancelled);
    assert_nothing_published(root.path());
    // Before a request: nothing is asked. Between two attempts: nothing is waited for.
    let requests = server.log().len();
    let before = task.run(|| handle.run(|| hub.download("org/tiny")));
    assert!(before.is_err() && server.log().len() == requests, "{before:?}");
    server.change(|s| s.throttle = None);
    let failing = Server::start();
    failing.fault("revision/", 9, Fault::Status(503, vec![("Retry-After", "60".to_owned())]));
    let other = Hub::new(root.path().join("other")).endpoint(failing.url());
    let handle = Task::new();
    let cancel = handle.clone();
    let ender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        cancel.cancel();
    });
    let started = std::time::Instant::now();
    assert!(matches!(handle.run(|| other.download("org/tiny")), Err(HubError::Stopped(_))));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    ender.join().expect("no panic");
    assert_complete(&hub.download("org/tiny").expect("it goes on"));
}

#[test]
fn progress_adds_up() {
    let server = Server::start();
    let root = tempfile::tempdir().expect("a folder");
    let seen = Arc::new(Mutex::new((0u64, BTreeMap::new(), 0usize)));
    let noted = seen.clone();
    let observer = Arc::new(move |e: &Event<'_>| {
        let mut seen = noted.lock().expect("not poisoned");
        match e {
            Event::Planned { bytes, present: 0, .. } => seen.0 = *bytes,
            Event::Progress { file, position } => drop(seen.1.insert((*file).to_owned(), *position)),
            Event::Finished { .. } => seen.2 += 1,
            _ => {}
        }
    });
    hub(&server, root.path()).0.observer(observer).download("org/tiny").expect("downloaded");
    let (planned, positions, finished) = &*seen.lock().expect("not poisoned");
    assert_eq!(*planned, positions.values().sum::<u64>());
    assert_eq!(*finished, wanted().len());
}
