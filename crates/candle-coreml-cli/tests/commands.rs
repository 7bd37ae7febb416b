//! The command from outside: outputs, files, exit codes.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor};

fn command() -> Command {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    // Ignore the settings of the user who runs the tests.
    command.env("CANDLE_COREML_CONFIG", if cfg!(windows) { "NUL" } else { "/dev/null" });
    command
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

#[test]
fn generate_prints_text_or_one_json_object() {
    let text = command().args(["generate", "--prompt", "What is the capital of Peru?"]).output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&text.stdout).trim(), "Lima");
    let json =
        command().args(["generate", "--prompt", "What is the capital of Peru?", "--json"]).output().expect("runs");
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(report["text"], "Lima");
    assert_eq!(report["stop_reason"], "end_of_text");
    assert_eq!(report["tokens"].as_array().map(Vec::len), Some(4));
    for rate in ["prefill_tokens_per_second", "decode_tokens_per_second", "load_seconds"] {
        assert!(report[rate].as_f64().is_some_and(|v| v > 0.0), "{rate}");
    }
}

#[test]
fn engines_can_be_chosen_and_missed() {
    let ask = |engine: &str| {
        let run = command().args(["generate", "--prompt", "What is the capital of Peru?", "--engine", engine]).output();
        let run = run.expect("runs");
        (
            run.status.success(),
            String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr),
        )
    };
    assert_eq!(ask("portable").1.trim(), "Lima");
    let (success, text) = ask("coreml");
    assert!(!success && text.contains("auto, native, portable"), "{text}");
    if !cfg!(target_vendor = "apple") {
        let (success, text) = ask("native");
        assert!(!success && text.contains("Core ML") && text.contains(std::env::consts::OS), "{text}");
    }
    let units = command().args(["generate", "--prompt", "x", "--compute-units", "ane"]).output().expect("runs");
    assert!(String::from_utf8_lossy(&units.stderr).contains("cpu-and-ne"));
}

#[test]
fn forced_tokens_give_one_row_of_logits_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("logits.safetensors");
    let run = command()
        .args(["generate", "--prompt-tokens", "257,84,82", "--force-tokens", "40,41,42", "--json", "--dump-logits"])
        .arg(&file)
        .output()
        .expect("runs");
    assert!(run.status.success());
    let logits = &candle_core::safetensors::load(&file, &Device::Cpu).expect("a file")["logits"];
    assert_eq!((logits.dims(), logits.dtype()), (&[4, 272][..], DType::F32));
}

#[test]
fn predict_keeps_a_state_in_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let inputs = std::collections::HashMap::from([
        ("hidden_states", Tensor::full(0.5f32, (1, 1, 192), &Device::Cpu).expect("tensor")),
        ("position_ids", Tensor::new(&[3i64], &Device::Cpu).expect("tensor")),
        ("causal_mask", Tensor::zeros((1, 1, 1, 256), DType::F32, &Device::Cpu).expect("tensor")),
        ("current_pos", Tensor::new(&[3u32], &Device::Cpu).expect("tensor")),
    ]);
    candle_core::safetensors::save(&inputs, path("in")).expect("saved");
    let chunk = model().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    let run = || {
        let mut c = command();
        c.arg("predict").arg(&chunk).arg("--inputs").arg(path("in")).arg("--outputs").arg(path("out"));
        c.arg("--state").arg(path("state")).args(["--function", "infer"]);
        c.output().expect("runs")
    };
    assert!(run().status.success());
    let state = candle_core::safetensors::load(path("state"), &Device::Cpu).expect("state");
    let cache = &state["model_model_kv_cache_0"];
    assert_eq!((cache.dims(), cache.dtype()), (&[8, 2, 256, 32][..], DType::F16));
    let row = |p: usize| {
        let row = cache.narrow(2, p, 1).and_then(|t| t.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>());
        row.expect("a sum")
    };
    assert!(row(3) > 0.0 && row(2) == 0.0);
    let out = candle_core::safetensors::load(path("out"), &Device::Cpu).expect("out");
    assert_eq!(out["output_hidden_states"].dtype(), DType::F16);
    assert!(run().status.success());
}

#[test]
fn failures_exit_with_1_and_wrong_usage_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let fail = |c: &mut Command, code: i32, part: &str| {
        let out = c.output().expect("runs");
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{text}");
        assert!(text.contains(part), "{text}");
    };
    fail(command().args(["generate", "--prompt", "x", "--model"]).arg(folder.path()), 1, "an empty folder");
    fail(command().args(["inspect"]).arg(folder.path()), 1, "an empty folder");
    fail(command().args(["generate"]), 2, "--prompt");
    fail(command().args(["frobnicate"]), 2, "frobnicate");
    let head = model().join("qwen_lm_head_lut8.mlpackage");
    fail(command().arg("predict").arg(&head).args(["--function", "nope"]), 1, "nope");
    // A wrong shape: nothing is written.
    let wrong = std::collections::HashMap::from([(
        "hidden_states",
        Tensor::zeros((1, 2, 192), DType::F32, &Device::Cpu).expect("tensor"),
    )]);
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    candle_core::safetensors::save(&wrong, &input).expect("saved");
    let mut c = command();
    c.arg("predict").arg(&head).arg("--inputs").arg(&input).arg("--outputs").arg(&output);
    fail(&mut c, 1, "hidden_states");
    assert!(!output.exists());
}

#[test]
fn inspect_tells_functions_operations_and_weights() {
    let chunk = model().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    let out = command().arg("inspect").arg(&chunk).arg("--json").output().expect("runs");
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(report["description"]["default_function"], "infer");
    assert!(report["operations"]["conv"].as_u64().is_some_and(|n| n > 0));
    let forms: Vec<&str> =
        report["weights"].as_array().expect("list").iter().filter_map(|w| w["form"].as_str()).collect();
    assert!(forms.iter().any(|f| f.contains("uint6")), "{forms:?}");
}
