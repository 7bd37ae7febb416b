//! `candle-coreml setup`: on a terminal, line by line, from flags; and the offer before the first chat.
//!
//! Unix only: settings follow HOME there; elsewhere the tests would touch the user's.
#![cfg(unix)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs the command with this home, through pipes.
fn piped(home: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candle-coreml"));
    command.env_clear().env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(home);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    // It may exit before it has read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Path of the settings file in this home.
fn settings_file(home: &Path) -> PathBuf {
    let out = piped(home, &["config", "path"], "");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let path = PathBuf::from(text(&out.stdout).trim());
    assert!(path.starts_with(home), "{}", path.display());
    path
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("settings")
}

#[test]
fn questions_through_a_pipe_are_answered_line_by_line() {
    let home = tempfile::tempdir().expect("a folder");
    // An unavailable device, an available one, back and forth, a model, a key, yes, no token, the summary.
    let answers = "abacus\ncpu\n<\n2\n\nsk-ant-0123456789abcdef\nyes\n\n\n";
    let out = piped(home.path(), &["setup"], answers);
    let said = text(&out.stdout);
    assert!(!said.contains("0123456789") && said.contains("Save? [Y/n]"), "{said}");
    assert!(out.status.success() && said.contains("! expected a number from 1 to 5"), "{said}\n{}", text(&out.stderr));
    let written = read(&settings_file(home.path()));
    for line in ["api_key = \"sk-ant-0123456789abcdef\"", "enabled = true", "device = \"coreml\"", "\"anemll/"] {
        assert!(written.contains(line), "{written}");
    }
}

#[test]
fn answers_that_end_too_early_change_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    for (answers, end) in [("", "left"), ("sk-1\nyes\n", "left"), ("\n\n\n\nn\n", "left")] {
        let out = piped(home.path(), &["setup", "--plain"], answers);
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
        assert!(text(&out.stderr).contains(end), "{}", text(&out.stderr));
    }
    assert!(!settings_file(home.path()).exists());
    // Existing settings stay byte for byte; an invalid answer at the summary is asked again.
    let file = settings_file(home.path());
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    std::fs::write(&file, "# mine\nstreaming_enabled = false\n").expect("written");
    let out = piped(home.path(), &["setup", "--plain"], "\n\n\n\nwhat?\n");
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(text(&out.stdout).matches("Save? [Y/n]").count(), 2);
    assert_eq!(read(&file), "# mine\nstreaming_enabled = false\n");
    let long = "x".repeat(70_000);
    assert_eq!(piped(home.path(), &["setup", "--plain"], &long).status.code(), Some(1));
}

#[test]
fn scripts_set_up_with_flags_and_secrets_from_files() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("s/own.toml");
    let own = file.to_str().expect("UTF-8");
    let all =
        ["setup", "--non-interactive", "--config", own, "--device", "cpu", "--model", "org/name", "--remote", "true"];
    let out = piped(home.path(), &[&all[..], &["--api-key-file", "-", "--streaming", "false"]].concat(), "sk-1\n");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let expected = "api_key = \"sk-1\"\nstreaming_enabled = false\n\n[backend]\ndevice = \"cpu\"\nmodel_repo = \"org/name\"\n\n[remote]\nenabled = true\n";
    assert_eq!(read(&file), expected);
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    // Omitted values stay; folders and names are told apart.
    let model = home.path().join("model");
    std::fs::create_dir(&model).expect("made");
    let out = piped(home.path(), &["setup", "--non-interactive", "--config", own, "--model", "model"], "");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let written = read(&file);
    assert!(
        written.contains("api_key = \"sk-1\"") && written.contains("model_path = ") && !written.contains("org/name")
    );
    for (arguments, part) in [
        (&["--device", "abacus"][..], "coreml, metal, cuda, cpu, auto"),
        (&["--api-key-file", "/nowhere"], "/nowhere"),
        (&["--plain"], "--plain"),
    ] {
        let out = piped(home.path(), &[&["setup", "--non-interactive", "--config", own], arguments].concat(), "");
        assert!(!out.status.success() && text(&out.stderr).contains(part), "{}", text(&out.stderr));
        assert_eq!(read(&file), written);
    }
    let out =
        piped(home.path(), &["setup", "--non-interactive", "--api-key-file", "-", "--config", own], "sk hidden\n");
    assert!(text(&out.stderr).contains("without spaces") && !text(&out.stderr).contains("hidden"));
}

#[test]
fn single_settings_are_set_shown_and_unset() {
    let home = tempfile::tempdir().expect("a folder");
    let config = |arguments: &[&str], input: &str| {
        let out = piped(home.path(), &[&["config"], arguments].concat(), input);
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    assert!(config(&["show"], "").1.contains("(not there)"));
    assert_eq!(config(&["set", "backend.device", "cpu"], "").0, Some(0));
    let (code, _, told) = config(&["set", "api_key", "sk-ant-fedcba9876543210"], "");
    assert!(code == Some(1) && told.contains("api_key is a secret") && told.contains("standard input"), "{told}");
    assert!(!told.contains("fedcba"), "{told}");
    let (code, _, told) = config(&["set", "api_key"], "sk-ant-0123456789abcdef\n");
    assert!(code == Some(0) && told.is_empty(), "{told}");
    assert_eq!(config(&["get", "api_key"], "").1, "••••cdef\n");
    assert_eq!(config(&["get", "backend.device"], "").1, "cpu\n");
    let (code, _, told) = config(&["get", "backend.model_path"], "");
    assert!(code == Some(1) && told.contains("backend.model_path is not set"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&config(&["show", "--json"], "").1).expect("JSON");
    assert_eq!(json["settings"]["backend.device"], serde_json::json!({"value": "cpu", "source": "file"}));
    assert!(json["settings"]["backend.model_path"]["value"].is_null() && json["exists"] == true, "{json}");
    let (_, shown, _) = config(&["show"], "");
    let row =
        |name: &str| shown.lines().find(|l| l.starts_with(name)).expect(name).split_whitespace().collect::<Vec<_>>();
    assert_eq!(row("backend.device"), ["backend.device", "cpu", "file"]);
    assert_eq!(row("api_key"), ["api_key", "••••cdef", "file"]);
    assert_eq!(row("remote.enabled"), ["remote.enabled", "false", "default"]);
    assert!(!shown.contains("0123"), "{shown}");
    assert_eq!(config(&["unset", "backend.device"], "").0, Some(0));
    let (code, _, told) = config(&["unset", "backend.device"], "");
    assert!(code == Some(1) && told.contains("is not set"), "{told}");
    for (arguments, code, part) in [
        (&["set", "backend.devise", "cpu"][..], 2, "did you mean `backend.device`?"),
        (&["set", "backend.device", "abacus"], 1, "coreml, metal, cuda, cpu, auto"),
        (&["set", "remote.enabled", "perhaps"], 1, "true or false"),
        (&["show", "--config", "/nowhere.toml"], 1, "/nowhere.toml"),
    ] {
        let (found, _, told) = config(arguments, "");
        assert!(found == Some(code) && told.contains(part), "{arguments:?}: {told}");
    }
    let file = settings_file(home.path());
    std::fs::write(&file, "half = ").expect("written");
    assert_eq!(config(&["set", "backend.device", "cpu"], "").0, Some(1));
    assert_eq!(read(&file), "half = ", "a file that can't be read is left alone");
}

#[path = "terminal/mod.rs"]
mod terminal;

mod on_a_terminal {
    use super::terminal::Terminal;
    use super::*;

    const ENTER: &str = "\r";
    const DOWN: &str = "\x1b[B";
    const BACK: &str = "\x1b[Z";

    #[test]
    fn the_wizard_goes_forth_and_back_survives_a_resize_and_saves() {
        let home = tempfile::tempdir().expect("a folder");
        let mut t = Terminal::start(home.path(), &["setup"], &[]);
        t.see("1 of 5: Device");
        t.see("cuda");
        t.type_in("5");
        t.see("> cpu");
        t.see("checkpoints (.safetensors) on the CPU");
        t.type_in(ENTER);
        t.see("of memory");
        t.see("Qwen/Qwen3-14B");
        t.type_in(&DOWN.repeat(30));
        t.see("> another");
        t.type_in(ENTER);
        t.see("Another model");
        t.type_in(ENTER);
        t.see("! expected a folder or a name");
        t.type_in("org/nome\x1b[D\x1b[D\x7fa\r");
        t.see("API key");
        t.type_in("sk-ant-0123456789abcdefX\x7f");
        t.see_line(&format!("> {}", "•".repeat(23)));
        // A terminal that is far too small, and a wide one.
        t.resize(3, 12);
        t.see("candle-corem");
        t.resize(30, 120);
        t.see("Shift-Tab back");
        t.type_in(ENTER);
        t.see("Remote fallback");
        t.type_in(DOWN);
        t.see("> yes");
        t.type_in(ENTER);
        t.see("Token for the hub");
        t.type_in(BACK);
        t.see("Remote fallback");
        t.see("> yes");
        t.type_in(ENTER);
        t.see("Token for the hub");
        // Pasted at once.
        t.type_in("\x1b[200~hf_pasted\x1b[201~");
        t.see_line(&format!("> {}", "•".repeat(9)));
        t.type_in(ENTER);
        t.see("Summary");
        t.see("org/name");
        t.see("••••cdef");
        assert!(!settings_file(home.path()).exists(), "nothing before the confirmation");
        t.type_in(ENTER);
        assert_eq!(t.end(), 0, "{}", t.screen());
        assert!(t.is_restored(), "{}", t.screen());
        assert!(t.screen().contains("settings written to"), "{}", t.screen());
        assert!(!t.raw().contains("0123456789") && !t.raw().contains("hf_pasted"), "secrets are never shown");
        let written = read(&settings_file(home.path()));
        let lines = [
            "api_key = \"sk-ant-0123456789abcdef\"",
            "hf_token = \"hf_pasted\"",
            "device = \"cpu\"",
            "model_repo = \"org/name\"",
            "enabled = true",
        ];
        assert!(lines.iter().all(|l| written.contains(l)), "{written}");
    }

    #[test]
    fn leaving_changes_nothing_and_restores_the_terminal() {
        for key in ["\x03", "\x1b"] {
            let home = tempfile::tempdir().expect("a folder");
            let mut t = Terminal::start(home.path(), &["setup"], &[]);
            t.see("Where shall models run?");
            assert!(t.is_full_screen());
            t.type_in(ENTER);
            t.see("of memory");
            t.type_in(ENTER);
            t.see("API key");
            t.type_in("sk-half");
            t.see("•••••••");
            t.type_in(key);
            assert_eq!(t.end(), 1);
            assert!(t.is_restored(), "{key:?}");
            assert!(t.screen().contains("nothing was changed"), "{}", t.screen());
            assert!(!settings_file(home.path()).exists());
        }
    }

    #[test]
    fn a_terminal_that_can_do_little_gets_plain_questions_and_no_echo_of_secrets() {
        let home = tempfile::tempdir().expect("a folder");
        let mut t = Terminal::start(home.path(), &["setup"], &[("TERM", "dumb")]);
        t.see("1/5 Device");
        t.type_in("auto\n");
        t.see("2/5 Model");
        t.type_in("\n");
        t.see("3/5 API key");
        t.see("> ");
        t.type_in("sk-hidden-0123\n");
        t.see("4/6 Remote fallback");
        t.type_in("no\n");
        t.see("5/6 Token for the hub");
        t.type_in("\n");
        t.see("Save? [Y/n]");
        t.type_in("y\n");
        assert_eq!(t.end(), 0, "{}", t.screen());
        assert!(!t.raw().contains("sk-hidden") && t.is_restored(), "{}", t.raw());
        assert!(read(&settings_file(home.path())).contains("sk-hidden-0123"));
    }

    #[test]
    fn the_first_chat_offers_the_set_up_and_works_without_it() {
        let home = tempfile::tempdir().expect("a folder");
        // Not now: the shipped model answers.
        let mut t = Terminal::start(home.path(), &["chat"], &[]);
        t.see("Set up now?");
        t.type_in("n\n");
        t.see("/help lists the commands");
        t.type_in("What is the capital of Japan?\r");
        t.see("Tokyo");
        t.see("prompt tokens run");
        t.type_in("/quit\r");
        assert_eq!(t.end(), 0);
        assert!(!settings_file(home.path()).exists());
        // Started and quit: the same.
        let mut t = Terminal::start(home.path(), &["chat"], &[]);
        t.see("Set up now?");
        t.type_in("\n");
        t.see("Where shall models run?");
        t.type_in("\x1b");
        t.see("/help lists the commands");
        t.type_in("/quit\r");
        assert_eq!(t.end(), 0);
        // Never: it does not ask again.
        let mut t = Terminal::start(home.path(), &["chat"], &[]);
        t.see("Set up now?");
        t.type_in("e\n");
        t.see("/help lists the commands");
        t.type_in("/quit\r");
        assert_eq!(t.end(), 0);
        let mut t = Terminal::start(home.path(), &["chat"], &[]);
        t.see("/help lists the commands");
        assert!(!t.screen().contains("Set up now?"));
        t.type_in("/quit\r");
        assert_eq!(t.end(), 0);
    }
}
