//! `candle-coreml chat` through pipes.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn chat(arguments: &[&str], lines: &str) -> Output {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    // Ignore the settings of the user who runs the tests.
    let own = [
        "DEVICE",
        "FALLBACK",
        "MODEL_PATH",
        "MODEL_REPO",
        "STREAMING",
        "API_KEY",
        "REMOTE",
        "REMOTE_MODEL",
        "REMOTE_URL",
    ];
    for name in own {
        command.env_remove(format!("CANDLE_COREML_{name}"));
    }
    command.env_remove("ANTHROPIC_API_KEY").env("HF_HUB_OFFLINE", "1");
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
    assert_eq!(text(&out.stdout), "Tokyo\n");
    assert!(text(&out.stderr).starts_with("demo model: ") && text(&out.stderr).lines().count() == 1);
    let nothing = chat(&[], "");
    assert!(nothing.status.success());
    assert!(nothing.stdout.is_empty());
}

#[test]
fn messages_have_several_lines_and_sampling_is_set() {
    let out = chat(
        &[],
        "\"\"\"What is the capital\nof Japan?\"\"\"\n/set\n/set temperature 0.5\n/set max_tokens 1\n/set\n/bye\nno\n",
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    let lines: Vec<String> = text(&out.stdout).lines().map(str::to_owned).collect();
    assert!(lines[1].starts_with("temperature 0, ") && lines[1].ends_with("max_tokens 1024"), "{lines:?}");
    assert!(lines[2].starts_with("temperature 0.5, ") && lines[2].ends_with("max_tokens 1"), "{lines:?}");
    assert_eq!(lines.len(), 3);
    let out = chat(&[], "/set top_p 7\n/set heat 1\n\"\"\"open\n");
    assert_eq!(out.status.code(), Some(1));
    for part in ["top_p: expected a number from 0 to 1", "`heat` can't be set", "does not end"] {
        assert!(text(&out.stderr).contains(part), "{part}: {}", text(&out.stderr));
    }
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
    // A file that is not a conversation is not overwritten.
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
    // The shipped model does not run on the CPU: one that fits is used if cached.
    if cfg!(feature = "hub") {
        fail(&["--device", "cpu"], 1, "there is no folder `Qwen/Qwen");
        fail(&["--device", "coreml", "--model", "auto"], 1, "there is no folder `anemll/");
    }
    let shipped = repository().join("models/tiny-qwen3");
    let shipped = shipped.to_str().expect("UTF-8");
    fail(&["--device", "cpu", "--model", shipped], 1, "run on the device coreml only");
    if !cfg!(feature = "cuda") {
        fail(&["--device", "cuda"], 1, "error: this build has no cuda backend");
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
        assert!(text(&out.stderr).contains("this build has no cuda backend"), "{}", text(&out.stderr));
    }
    write("api_key = sk-hidden".to_owned());
    let out = chat(&["--config", name], question);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("line 1 is not TOML") && !text(&out.stderr).contains("hidden"));
    let gone = folder.path().join("gone.toml");
    assert_eq!(chat(&["--config", gone.to_str().expect("UTF-8")], question).status.code(), Some(1));
}

#[test]
fn the_model_is_shown_and_changed_and_stays_when_another_can_not_be_had() {
    let model = repository().join("conformance/checkpoints/qwen3-tied-bf16");
    let question = "What is the capital of Japan?";
    let lines = format!("/model\n{question}\n/model /nowhere/at/all\n{question}\n/model {}\n/stats\n", model.display());
    let out = chat(&["--fallback", "cpu", "--max-tokens", "8"], &lines);
    let (said, told) = (text(&out.stdout), text(&out.stderr));
    assert!(said.contains("tiny-qwen3 on coreml") && said.contains("anemll/"), "{said}");
    assert_eq!(said.matches("Tokyo\n").count(), 2, "{said}");
    assert!(told.contains("/nowhere/at/all") && told.contains("1 of the lines failed"), "{told}");
    assert!(said.contains("qwen3-tied-bf16\ndevice: cpu (candle, f32)"), "{said}");
}

#[cfg(feature = "remote")]
#[path = "../../candle-coreml/tests/messages_server/mod.rs"]
mod messages_server;

#[cfg(feature = "remote")]
mod remote {
    use super::*;
    use messages_server::{Server, refusal, saying, stream};

    const KEY: &str = "sk-ant-secret-0123456789";

    /// A chat with an allowed remote model; its output never contains the key.
    fn remote_chat(server: &Server, arguments: &[&str], lines: &str) -> Output {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.toml");
        let settings = format!(
            "api_key = \"{KEY}\"\n[remote]\nenabled = true\nmodel = \"some-model\"\nbase_url = \"{}\"\n",
            server.url()
        );
        std::fs::write(&file, settings).expect("written");
        let config = file.to_str().expect("UTF-8");
        let out = chat(&[arguments, &["--config", config]].concat(), lines);
        assert!(!(text(&out.stdout) + &text(&out.stderr)).contains(KEY));
        out
    }

    #[test]
    fn the_conversation_goes_to_the_remote_model_and_comes_back() {
        let server = Server::start(vec![stream(saying(&["Kyōto, ", "once."]))]);
        let question = "What is the capital of Japan?";
        let lines = format!("{question}\n/remote\n/remote on\nAnd before?\n/stats\n/remote off\n{question}\n");
        let out = remote_chat(&server, &["--system", "Be kind."], &lines);
        let (said, told) = (text(&out.stdout), text(&out.stderr));
        assert!(out.status.success(), "{told}");
        assert!(
            said.starts_with("Tokyo\noff; /remote on sends the conversation\nKyōto, once.\nmodel: some-model\n"),
            "{said}"
        );
        assert!(said.contains("answers: 1, tokens: 2"), "{said}");
        assert!(told.contains(&format!("is sent to {}/v1/messages (some-model)", server.url())), "{told}");
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "only what was asked for");
        assert_eq!(requests[0].body["system"], "Be kind.");
        let sent: Vec<&str> = requests[0].body["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|m| m["content"].as_str())
            .collect();
        assert_eq!(sent, [question, "Tokyo", "And before?"]);
    }

    #[test]
    fn a_chain_that_is_exhausted_ends_at_the_remote_model() {
        let server = Server::start(vec![stream(saying(&["Kyoto"]))]);
        let shipped = repository().join("models/tiny-qwen3");
        let shipped = shipped.to_str().expect("UTF-8");
        let out = remote_chat(&server, &["--model", shipped, "--device", "cpu"], "Where?\n");
        assert_eq!((text(&out.stdout).as_str(), out.status.code()), ("Kyoto\n", Some(0)), "{}", text(&out.stderr));
        let told = text(&out.stderr);
        assert!(told.contains("run on the device coreml only") && told.contains("is sent to"), "{told}");
    }

    #[test]
    fn nothing_is_sent_unless_the_settings_allow_it() {
        let out = chat(&[], "/remote on\n/remote\n");
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stderr).contains("config set remote.enabled true"), "{}", text(&out.stderr));
        assert!(text(&out.stdout).starts_with("off;"));
    }

    #[test]
    fn a_refusal_is_told_and_the_conversation_goes_on_here() {
        let server = Server::start(vec![refusal(401, "authentication_error", &format!("bad key {KEY}"))]);
        let question = "What is the capital of Japan?";
        let out = remote_chat(&server, &[], &format!("/remote on\n{question}\n/remote off\n{question}\n"));
        assert_eq!((text(&out.stdout).as_str(), out.status.code()), ("Tokyo\n", Some(1)));
        assert!(text(&out.stderr).contains("refuses the API key (HTTP 401): bad key …"), "{}", text(&out.stderr));
    }
}

/// A model with random weights that never emits an end token.
#[cfg(unix)]
fn endless() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(repository().join("conformance/checkpoints/qwen3-tied-bf16")).expect("a folder") {
        let entry = entry.expect("an entry");
        let mut bytes = std::fs::read(entry.path()).expect("a file");
        if entry.path().extension().is_some_and(|e| e == "json") {
            let text = String::from_utf8(bytes).expect("UTF-8");
            let ends = [("<|im_end|>", "<|no|>"), ("<|endoftext|>", "<|none|>"), ("\"eos_token_id\": 258,", "")];
            bytes = ends.iter().fold(text, |t, (from, to)| t.replace(from, to)).into_bytes();
        }
        std::fs::write(folder.path().join(entry.file_name()), bytes).expect("written");
    }
    folder
}

#[cfg(unix)]
mod terminal;

/// The same key as at the prompt, on a terminal.
#[cfg(unix)]
#[test]
fn on_a_terminal_ctrl_c_stops_the_answer_and_what_the_model_writes_moves_no_cursor() {
    let (model, home) = (endless(), tempfile::tempdir().expect("a folder"));
    let name = model.path().to_str().expect("UTF-8");
    let arguments = ["chat", "--device", "cpu", "--max-tokens", "100000000", "--model", name];
    let mut t = terminal::Terminal::start(home.path(), &arguments, &[("NO_COLOR", "1")]);
    t.see("/help lists the commands");
    t.type_in("Tell me everything.\r");
    let begun = |screen: String| {
        let answer = screen.lines().skip_while(|l| !l.contains("everything.")).nth(1).map(str::to_owned);
        // Not the prefill status line.
        answer.is_some_and(|l| !l.trim().is_empty() && !l.contains('…'))
    };
    t.wait("the answer begins", || begun(t.screen()));
    t.type_in("\x03");
    t.see("(stopped)");
    t.see("prompt tokens run");
    t.type_in("/stats\r");
    t.see("answers: 1");
    t.type_in("\x03");
    t.see("/quit or Ctrl-D leaves");
    t.type_in("\x04");
    assert_eq!(t.end(), 0);
    assert!(t.is_restored());
}

/// Ctrl-C stops the answer, not the program.
#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_answer_and_the_next_line_is_answered() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::Stdio;

    let folder = endless();
    let model = folder.path();
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
