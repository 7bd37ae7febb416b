//! The command and Core ML: trials in child processes, what is told of them, and a clean standard output.
#![cfg(unix)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn command(home: &Path) -> Command {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    command.env("HOME", home).env("CANDLE_COREML_CONFIG", home.join("config.toml")).env_remove("XDG_CACHE_HOME");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_trial_answers_by_its_protocol() {
    let home = tempfile::tempdir().expect("a folder");
    let run = command(home.path()).arg("prove-native").arg(models().join("tiny-qwen3")).output().expect("runs");
    let out = text(&run.stdout);
    let last = out.lines().last().unwrap_or_default();
    assert!(out.starts_with("candle-coreml proof 1\n"), "{out}");
    if cfg!(target_vendor = "apple") {
        assert!(run.status.success() && last == "proved", "{out}{}", text(&run.stderr));
    } else {
        assert!(!run.status.success() && last.starts_with("cannot ") && last.contains("Core ML"), "{out}");
    }
    let help = text(&command(home.path()).arg("--help").output().expect("runs").stdout);
    assert!(!help.contains("prove-native"), "{help}");
}

#[test]
fn a_refusal_is_shown_with_its_reason_and_how_to_try_again() {
    let home = tempfile::tempdir().expect("a folder");
    let kept = home.path().join("Library/Caches/candle-coreml/compiled");
    std::fs::create_dir_all(&kept).expect("folders");
    let model = std::path::absolute(models().join("tiny-qwen3")).expect("a path");
    let model = std::fs::canonicalize(&model).expect("a path");
    let record =
        format!("cpu-and-ne\t\t15.1.0 24B83\t{}\tthe process was ended by SIGABRT while predicting\n", model.display());
    let file = kept.join(format!("{:064x}.refused", 7));
    std::fs::write(&file, record).expect("a file");

    let doctor = text(&command(home.path()).args(["doctor", "--json"]).output().expect("runs").stdout);
    let doctor: serde_json::Value = serde_json::from_str(&doctor).expect("JSON");
    let told = doctor["checks"].as_array().expect("checks").iter().find(|c| c["area"] == "Core ML").expect("a check");
    let detail = told["detail"].as_str().expect("text");
    for part in ["SIGABRT while predicting", "15.1.0 24B83", "cpu-and-ne", &file.display().to_string()] {
        assert!(detail.contains(part), "{detail} lacks {part}");
    }
    assert_eq!(told["status"], "warning");

    let component = model.join("qwen_embeddings.mlpackage");
    let plain = text(&command(home.path()).arg("inspect").arg(&component).output().expect("runs").stdout);
    assert!(plain.contains("Core ML (cpu-and-ne, system 15.1.0 24B83) refused it: the process was ended"), "{plain}");
    let json = text(&command(home.path()).args(["inspect", "--json"]).arg(&component).output().expect("runs").stdout);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["core_ml"][0]["compute_units"], "cpu-and-ne");
    // Another model knows nothing of it.
    let other = models().join("tiny-intent/intent.mlpackage");
    let plain = text(&command(home.path()).arg("inspect").arg(&other).output().expect("runs").stdout);
    assert!(!plain.contains("refused it"), "{plain}");
}

/// Core ML's compiler prints to standard output; the first run compiles.
#[cfg(target_vendor = "apple")]
#[test]
fn standard_output_has_the_answer_alone_from_the_first_run_on() {
    let home = tempfile::tempdir().expect("a folder");
    let mut answers = Vec::new();
    for _ in 0..2 {
        let arguments = ["generate", "--engine", "native", "--prompt", "What is the capital of Peru?"];
        let run = command(home.path()).args(arguments).output().expect("runs");
        assert!(run.status.success(), "{}", text(&run.stderr));
        answers.push(text(&run.stdout));
    }
    assert!(answers[0].trim() == "Lima" && answers[0] == answers[1], "{answers:?}");
}
