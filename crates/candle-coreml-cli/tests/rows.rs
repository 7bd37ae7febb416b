//! Many rows in one call: CSV and JSON lines in; CSV, JSON lines and tensors out.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::Device;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance").join(name).with_extension("mlmodel")
}

fn predict(model_name: &str, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command");
    command.arg("predict").arg(model(model_name)).args(["--engine", "portable"]).args(arguments);
    command.output().expect("it runs")
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn tables_and_lines_are_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    // The columns are the elements of the only input: as scikit-learn's tables have them.
    let table = file(folder.path(), "in.csv", "a,b,c\r\n0,0,0\r\n\"1\",-1,0.5\r\n");
    let found = predict("values/neighbours_tree", &["--inputs", &table]);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let text = String::from_utf8(found.stdout).expect("text");
    let rows: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    let sum = |row: &serde_json::Value| -> f64 {
        row["shares"].as_object().expect("shares").values().map(|v| v.as_f64().expect("a number")).sum()
    };
    assert!(rows.iter().all(|row| row["label"].is_i64() && (sum(row) - 1.0).abs() < 1e-12), "{text}");

    let lines = file(folder.path(), "in.jsonl", "{\"x\": \"red\"}\n\n{\"x\": \"green\"}\n");
    let results = folder.path().join("out.csv");
    let to = results.to_str().expect("UTF-8");
    assert!(predict("classic/mapping", &["--inputs", &lines, "--outputs", to]).status.success());
    assert_eq!(std::fs::read_to_string(&results).expect("results"), "y\n7\n-1\n");

    let results = folder.path().join("out.safetensors");
    let to = results.to_str().expect("UTF-8");
    assert!(predict("classic/mapping", &["--inputs", &lines, "--outputs", to]).status.success());
    let tensors = candle_core::safetensors::load(&results, &Device::Cpu).expect("tensors");
    assert_eq!(tensors["y"].to_vec1::<i64>().expect("integers"), [7, -1]);
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text, part) in [
        ("a.csv", "x\nred,blue\n", "record 1: expected 1 fields, found 2"),
        ("b.csv", "colour\nred\n", "expected columns of the inputs x, found `colour`"),
        ("c.csv", "", "expected a header"),
        ("d.jsonl", "{\"x\": \"red\"}\n{\"x\": 1.5}\n", "row 1: input `x`"),
        ("e.jsonl", "{\"x\": \n", "line 1"),
    ] {
        let path = file(folder.path(), name, text);
        let found = predict("classic/mapping", &["--inputs", &path]);
        let message = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(!found.status.success() && message.contains(part), "{part}: {message}");
    }
    let path = file(folder.path(), "f.jsonl", "{\"x\": \"red\"}\n");
    let found = predict("classic/mapping", &["--inputs", &path, "--outputs", "out.png"]);
    assert!(String::from_utf8_lossy(&found.stderr).contains(".png"));
}
