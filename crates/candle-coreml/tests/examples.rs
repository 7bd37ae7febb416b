//! Every example runs on shipped models and prints what its documentation says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::time::SystemTime;

const EXAMPLES: [&str; 9] = [
    "bert_comparison",
    "bert_inference",
    "embeddings",
    "qwen_benchmark",
    "qwen_chat",
    "qwen_demo_patterns",
    "qwen_multi_component",
    "student",
    "tensor_conversion",
];

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Folder of the example binaries: beside the folder of this test.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let profile = test.ancestors().nth(2).expect("target/profile/deps/test");
    profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Time of the newest file in a folder.
fn newest(folder: &Path) -> SystemTime {
    let times = std::fs::read_dir(folder).expect("a folder").map(|entry| {
        let entry = entry.expect("an entry");
        if entry.path().is_dir() {
            newest(&entry.path())
        } else {
            entry.metadata().expect("a file").modified().expect("a time")
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// `cargo test` builds the examples before running tests; `cargo test --test examples` does not.
fn build_where_needed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let shared = newest(&package().join("src")).max(newest(&package().join("examples/support")));
        let written = |path: PathBuf| path.metadata().and_then(|m| m.modified());
        let fresh = |name: &str| {
            let source = written(package().join("examples").join(format!("{name}.rs"))).expect("a source");
            written(built(name)).is_ok_and(|t| t >= shared.max(source))
        };
        if EXAMPLES.iter().all(|n| fresh(n)) {
            return;
        }
        let test = std::env::current_exe().expect("a path");
        let profile =
            test.ancestors().nth(2).and_then(Path::file_name).expect("a profile").to_string_lossy().into_owned();
        let profile = if profile == "debug" { "dev".to_owned() } else { profile };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--examples", "--profile", &profile]).current_dir(package());
        cargo.env("CARGO_TARGET_DIR", test.ancestors().nth(3).expect("the target folder"));
        assert!(cargo.status().expect("cargo runs").success(), "the examples build");
    });
}

fn start(name: &str, args: &[&str], input: &str) -> Output {
    build_where_needed();
    let mut command = Command::new(built(name));
    // Run outside the repository: the shipped models must still be found.
    command.args(args).current_dir(std::env::temp_dir());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the example starts");
    // An example that reads no input may have exited already.
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).ok();
    child.wait_with_output().expect("the example ends")
}

fn run(name: &str, args: &[&str], input: &str) -> String {
    let output = start(name, args, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn bert_inference_names_intents() {
    let text = run("bert_inference", &[], "");
    let named: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(named, ["weather", "music", "timer", "lights", "greeting"], "{text}");
    let text = run("bert_inference", &["Find a recipe of noodles with cheese."], "");
    assert!(text.starts_with("recipe") && text.lines().count() == 1, "{text}");
}

#[test]
fn bert_comparison_is_within_the_tolerance() {
    let text = run("bert_comparison", &["--repeat", "1", "--batch", "1,2", "--length", "8"], "");
    let differences: Vec<f64> = text
        .lines()
        .filter_map(|l| l.split_once("largest difference to PyTorch "))
        .map(|(_, n)| n.trim().parse().expect("a number"))
        .collect();
    assert_eq!(differences.len(), 6, "three batches, two outputs: {text}");
    assert!(differences.iter().all(|d| *d < 2e-2), "{text}");
    let table = text.lines().skip_while(|l| !l.contains("sentences/s")).skip(1);
    assert_eq!(table.count(), 2, "{text}");
}

#[test]
fn embeddings_are_closer_within_a_subject() {
    let text = run("embeddings", &[], "");
    let rows: Vec<Vec<f64>> = text
        .lines()
        .skip(1)
        .map(|l| l.split_whitespace().take(4).map(|n| n.parse().expect("a number")).collect())
        .collect();
    assert_eq!(rows.len(), 4, "{text}");
    for (i, row) in rows.iter().enumerate() {
        assert!((row[i] - 1.0).abs() < 1e-3, "a sentence is like itself: {text}");
    }
    // Two sentences about weather, two about music.
    assert!(rows[0][1] > rows[0][2].max(rows[0][3]) && rows[2][3] > rows[2][0].max(rows[2][1]), "{text}");
}

#[test]
fn tensor_conversion_shows_every_dtype() {
    let text = run("tensor_conversion", &[], "");
    assert_eq!(text.matches(" out, largest difference 0\n").count(), 14, "seven dtypes, two models: {text}");
    assert!(text.contains("F16 in, F32 out") && text.contains("F32 in, F16 out"), "{text}");
    assert!(text.contains("halves: input `input_ids`: expected int32 values"), "{text}");
    assert_eq!(text.matches("): largest difference 0\n").count(), 2, "views of two models: {text}");
    assert!(text.contains("views (contiguous: false)"), "{text}");
    assert_eq!(text.matches("one dimension more: input `").count(), 2, "{text}");
}

#[test]
fn qwen_patterns_agree_with_each_other() {
    let text = run("qwen_demo_patterns", &[], "");
    let after = |name: &str| {
        let lines: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix(name)).map(str::trim).collect();
        assert!(!lines.is_empty(), "{name}: {text}");
        lines
    };
    assert_eq!(after("greedy:"), ["Tokyo"]);
    assert_eq!(after("seed 1:").len(), 2);
    assert_eq!(after("seed 1:")[0], after("seed 1:")[1], "{text}");
    assert_eq!(after("iterator:"), ["[T] [o] [k] [y] [o] (EndOfText)"]);
    assert_eq!(after("callback:"), ["Tokyo (5 tokens, EndOfText)"]);
    assert_eq!(after("stop `ky`:"), ["To (StopText)"]);
    assert_eq!(after("cancelled:"), ["T (Cancelled)"]);
}

#[test]
fn components_by_hand_give_the_pipelines_answer() {
    let text = run("qwen_multi_component", &["--prompt", "What is the capital of Peru?"], "");
    assert!(text.contains("ffn_prefill_2") && text.trim_end().ends_with("\nLima"), "{text}");
    let failed = start("qwen_multi_component", &["--max-tokens", "1000"], "");
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("context of 256"));
}

#[test]
fn qwen_chat_answers_line_by_line() {
    let input = "What is the capital of France?\nSpell \"tiger\" backwards.\n/reset\n2 + 2 =\n\nnot read\n";
    let output = start("qwen_chat", &[], input);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().collect::<Vec<_>>(), ["Paris", "regit", "4"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 3, "a line of figures a turn");
}

#[test]
fn qwen_benchmark_reports_rates_and_refuses_what_does_not_fit() {
    let text = run("qwen_benchmark", &["--prompt", "40", "--decode", "4", "--runs", "1"], "");
    assert!(text.contains("prefill   40 tokens: ") && text.contains("decode    4 tokens: "), "{text}");
    let failed = start("qwen_benchmark", &["--prompt", "256"], "");
    assert!(!failed.status.success(), "no room to decode");
}

#[test]
fn the_student_scores_answers_and_learns() {
    let text = run("student", &["--steps", "10"], "");
    let number = |l: &str, after: &str| -> f64 {
        let rest = &l[l.find(after).expect("a label") + after.len()..];
        rest.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    };
    let scores: Vec<_> = text.lines().filter(|l| l.contains("log p(")).collect();
    assert_eq!(scores.len(), 3, "{text}");
    for line in scores {
        let (right, wrong) = line.rsplit_once("log p").expect("two scores");
        assert!(number(right, ") =") > number(wrong, ") ="), "{line}");
    }
    let losses: Vec<f64> = text.lines().filter(|l| l.contains("loss")).map(|l| number(l, "loss")).collect();
    assert!(losses.len() == 3 && losses[2] < losses[0] - 0.1, "{text}");
}

#[test]
fn a_model_that_is_not_there_is_an_error() {
    for name in EXAMPLES {
        let output = start(name, &["--model", "/no/such/model"], "");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("no/such/model"), "{name}: {text}");
    }
}
