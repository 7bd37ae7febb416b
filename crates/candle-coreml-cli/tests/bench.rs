//! `candle-coreml bench`: measurements of language models and others. The figures themselves are not asserted.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn bench(arguments: &[&str], model: &Path) -> (bool, String, String) {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    command.args(["bench", "--tokens", "4", "--runs", "2", "--prompt", "40"]).args(arguments).arg("--model").arg(model);
    let run = command.output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (run.status.success(), text(&run.stdout), text(&run.stderr))
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

#[test]
fn a_profile_counts_the_operations_of_each_phase() {
    let (success, json, errors) = bench(&["--json", "--profile", "--engine", "portable"], &models().join("tiny-qwen3"));
    assert!(success, "{errors}");
    let report: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(report["latency_seconds"]["count"], 8);
    assert_eq!(report["dimensions"]["context"], 256);
    let phases: Vec<&str> =
        report["profiles"].as_array().into_iter().flatten().filter_map(|p| p["phase"].as_str()).collect();
    assert_eq!(phases, ["prefill", "decode"]);
    for phase in report["profiles"].as_array().into_iter().flatten() {
        let rows = phase["rows"].as_array().expect("rows");
        let share: f64 = rows.iter().filter_map(|r| r["share"].as_f64()).sum();
        assert!((share - 1.0).abs() < 1e-6, "{share}");
        let seconds: Vec<f64> = rows.iter().filter_map(|r| r["seconds"].as_f64()).collect();
        assert!(seconds.is_sorted_by(|a, b| a >= b), "{seconds:?}");
    }
    // Four tokens through four layers: attention ran sixteen times.
    let decode = report["profiles"][1]["rows"].as_array().expect("rows");
    let attention = decode.iter().find(|r| r["operator"] == "engine.cached_attention").expect("attention");
    assert_eq!(attention["calls"], 16);
    // Products read their weights: a rate is reported; its value is not asserted.
    let products = decode.iter().find(|r| r["operator"] == "conv").expect("products");
    assert!(products["weight_bytes_per_second"].as_f64().is_some_and(|v| v > 0.0));
}

#[test]
fn any_model_gets_made_up_inputs() {
    let (success, json, errors) = bench(&["--json"], &models().join("tiny-intent/intent.mlpackage"));
    assert!(success, "{errors}");
    let report: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(report["inputs"][0][0], "input_ids");
    assert_eq!(report["latency_seconds"]["count"], 8);
    assert_eq!(report["profiles"], Value::Array(Vec::new()), "nothing is profiled unless it is asked for");
    // A stateful function among several, and one that does not exist.
    let chunk = models().join("tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    let (success, text, errors) = bench(&["--function", "prefill"], &chunk);
    assert!(success && text.contains("[1, 32, 192]"), "{text}{errors}");
    let (success, _, errors) = bench(&["--function", "none"], &chunk);
    assert!(!success && errors.contains("none") && errors.contains("prefill"), "{errors}");
}

#[test]
fn a_report_is_one_page_with_its_charts() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.html");
    let name = file.to_str().expect("UTF-8");
    let (success, _, errors) = bench(&["--report", name, "--engine", "portable"], &models().join("tiny-qwen3"));
    assert!(success, "{errors}");
    let page = std::fs::read_to_string(&file).expect("a report");
    for part in [
        "<!doctype html>",
        "Latency per token",
        "Decoding over the context",
        "Operations: prefill",
        "Operations: decode",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<svg").count(), 5);
    // Self-contained: no scripts, no other files.
    for outside in ["<script", "src=", "<link", "url(", "NaN", "inf "] {
        assert!(!page.contains(outside), "{outside}");
    }
    let (success, _, _) = bench(&["--report", name], &models().join("tiny-intent/intent.mlpackage"));
    assert!(success && std::fs::read_to_string(&file).expect("a report").contains("Latency per prediction"));
}
