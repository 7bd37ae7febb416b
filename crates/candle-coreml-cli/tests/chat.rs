//! `candle-coreml chat` through pipes.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn chat(arguments: &[&str], lines: &str) -> Output {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    // The settings of whoever runs the tests are not theirs.
    for name in ["DEVICE", "FALLBACK", "MODEL_PATH", "MODEL_REPO", "STREAMING"] {
        command.env_remove(format!("CANDLE_COREML_{name}"));
    }
    let nothing = tempfile::NamedTempFile::new().expect("a file");
    command.env("CANDLE_COREML_CONFIG", nothing.path());
    command.arg("chat").args(arguments).write_stdin(lines.to_owned()).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_line_from_a_pipe_is_answered() {
    let out = chat(&[], "What is the capital of Japan?");
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!((text(&out.stdout).as_str(), text(&out.stderr).as_str()), ("Tokyo\n", ""));
    let nothing = chat(&[], "");
    assert!(nothing.status.success());
    assert!(nothing.stdout.is_empty());
}

#[test]
fn turns_share_the_cache_and_stats_tell_it() {
    let out = chat(&[], "What is the capital of Japan?\n\nSpell \"tiger\" backwards.\n/stats\n/quit\nnot read\n");
    assert!(out.status.success());
    let all = text(&out.stdout);
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines[..2], ["Tokyo", "regit"]);
    assert!(lines.contains(&"answers: 2, tokens: 10") || all.contains("answers: 2"), "{all}");
    let prefilled = lines.iter().find_map(|l| l.strip_prefix("prefilled: ")).expect("a line about prefill");
    let mut numbers = prefilled.split_whitespace().filter_map(|w| w.parse::<usize>().ok());
    let (run, whole) = (numbers.next().expect("run"), numbers.next().expect("all"));
    assert!(run > 0 && run < whole * 2 / 3, "{prefilled}");
    let context = lines.iter().find_map(|l| l.strip_prefix("context: ")).expect("a line about the context");
    assert!(context.ends_with("of 256 tokens"), "{context}");
    assert!(all.contains("device: coreml"), "{all}");
}

#[test]
fn reset_forgets_and_conversations_are_saved_and_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("talk.json");
    let name = file.to_str().expect("UTF-8");
    let lines =
        format!("/system Be kind.\nWhat is the capital of Japan?\n/save {name}\n/reset\n/save {name}.2\n/system\n");
    let out = chat(&[], &lines);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout).lines().last(), Some("Be kind."));
    let read = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
    };
    let saved = read(name);
    assert_eq!(saved["version"], 1);
    let roles: Vec<&str> =
        saved["messages"].as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(read(&format!("{name}.2"))["messages"].as_array().map(Vec::len), Some(1));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let loaded = chat(&["--load", name], "Spell \"tiger\" backwards.\n/stats\n");
    assert!(loaded.status.success(), "{}", text(&loaded.stderr));
    assert!(text(&loaded.stdout).contains("answers: 1"));
    // What is no conversation is not overwritten.
    std::fs::write(&file, "my diary").expect("written");
    let refused = chat(&[], &format!("/save {name}\n"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("not overwritten"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "my diary");
    assert_eq!(chat(&["--load", name], "").status.code(), Some(1));
}

#[test]
fn wrong_lines_are_told_and_the_next_ones_still_answered() {
    let long = "word ".repeat(600);
    let out = chat(&[], &format!("/hlep\n/think perhaps\n{long}\nWhat is the capital of Japan?\n/help\n/think on\n"));
    assert_eq!(out.status.code(), Some(1), "a script learns of it");
    let (told, said) = (text(&out.stderr), text(&out.stdout));
    assert!(told.contains("did you mean /help?") && told.contains("on, off or auto"), "{told}");
    assert!(told.contains("context of 256") && told.contains("3 of the lines failed"), "{told}");
    assert!(said.starts_with("Tokyo\n") && said.contains("/system [TEXT|none]"), "{said}");
}

#[test]
fn models_and_devices_that_are_not_there_end_it() {
    let fail = |arguments: &[&str], code: i32, part: &str| {
        let out = chat(arguments, "hi\n");
        let told = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{told}");
        assert!(told.contains(part), "{told}");
    };
    fail(&["--model", "/nowhere/at/all"], 1, "/nowhere/at/all");
    fail(&["--device", "abacus"], 2, "coreml, metal, cuda, cpu, auto");
    fail(&["--device", "cpu"], 1, "cpu could not load the model");
    if !cfg!(feature = "cuda") {
        fail(&["--device", "cuda"], 1, "cuda can't be had");
    }
}

#[test]
fn the_next_device_takes_over_and_the_user_is_told() {
    let model = repository().join("conformance/checkpoints/qwen3-tied-bf16");
    let model = model.to_str().expect("UTF-8");
    let arguments = ["--model", model, "--device", "coreml", "--fallback", "cpu", "--max-tokens", "3"];
    let out = chat(&arguments, "abc\n/stats\n");
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("coreml could not load the model"), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("device: cpu (candle, f32)") && said.contains("given up: coreml"), "{said}");
}

#[test]
fn settings_come_from_the_file_and_flags_win() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    let name = file.to_str().expect("UTF-8");
    let model = repository().join("models/tiny-qwen3");
    let write = |text: String| std::fs::write(&file, text).expect("written");
    write(format!(
        "streaming_enabled = false\n[backend]\nmodel_path = {model:?}\ndevise = \"cpu\"\ndevice = \"cuda\"\n"
    ));
    let question = "What is the capital of Japan?\n";
    let out = chat(&["--config", name, "--device", "coreml"], question);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), "Tokyo\n");
    assert!(text(&out.stderr).contains("did you mean `backend.device`?"), "{}", text(&out.stderr));
    if !cfg!(feature = "cuda") {
        let out = chat(&["--config", name], question);
        assert!(text(&out.stderr).contains("cuda can't be had"), "{}", text(&out.stderr));
    }
    write("api_key = sk-hidden".to_owned());
    let out = chat(&["--config", name], question);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("line 1 is not TOML") && !text(&out.stderr).contains("hidden"));
    let gone = folder.path().join("gone.toml");
    assert_eq!(chat(&["--config", gone.to_str().expect("UTF-8")], question).status.code(), Some(1));
}

/// Ctrl-C stops an answer and not the program.
#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_answer_and_the_next_line_is_answered() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::Stdio;

    // Random weights and no token that ends an answer.
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path();
    for entry in std::fs::read_dir(repository().join("conformance/checkpoints/qwen3-tied-bf16")).expect("a folder") {
        let entry = entry.expect("an entry");
        let mut bytes = std::fs::read(entry.path()).expect("a file");
        if entry.path().extension().is_some_and(|e| e == "json") {
            let text = String::from_utf8(bytes).expect("UTF-8");
            let ends = [("<|im_end|>", "<|no|>"), ("<|endoftext|>", "<|none|>"), ("\"eos_token_id\": 258,", "")];
            bytes = ends.iter().fold(text, |t, (from, to)| t.replace(from, to)).into_bytes();
        }
        std::fs::write(model.join(entry.file_name()), bytes).expect("written");
    }
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("candle-coreml"))
        .env("CANDLE_COREML_CONFIG", "/dev/null")
        .args(["chat", "--device", "cpu", "--max-tokens", "100000000", "--model"])
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdin.write_all(b"Tell me everything.\n").expect("written");
    let mut first = [0; 1];
    stdout.read_exact(&mut first).expect("the answer begins");
    let kill = format!("kill -INT {}", child.id());
    let kill = std::process::Command::new("sh").args(["-c", &kill]).status().expect("kill runs");
    assert!(kill.success());
    stdin.write_all(b"/stats\n/quit\n").expect("written");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).expect("the rest");
    let mut told = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    while stderr.read_line(&mut told).expect("text") > 0 {}
    assert!(child.wait().expect("it ends").success(), "{told}");
    assert!(told.contains("(stopped)"), "{told}");
    assert!(text(&rest).contains("answers: 1"), "{}", text(&rest));
}
