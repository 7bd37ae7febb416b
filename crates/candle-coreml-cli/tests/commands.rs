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
    assert!(ask("portable").1.starts_with("Lima\n"));
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

/// The command where nothing of the repository is, without settings, offline.
fn alone(folder: &Path) -> Command {
    let mut command = command();
    command.current_dir(folder).env("CANDLE_COREML_CACHE", folder.join("cache")).env("HF_HUB_OFFLINE", "1");
    command
}

#[test]
fn the_command_alone_answers_and_says_that_it_is_a_demo() {
    let folder = tempfile::tempdir().expect("a folder");
    for (cache, model) in [("cache", None), ("cache", Some("demo")), ("file/cache", None)] {
        // A cache that can't be made: the model goes elsewhere.
        std::fs::write(folder.path().join("file"), "").expect("written");
        let mut c = alone(folder.path());
        c.args(["generate", "--prompt", "What is 37 + 45?"]).env("CANDLE_COREML_CACHE", folder.path().join(cache));
        c.args(model.map(|m| ["--model", m]).into_iter().flatten());
        let out = c.output().expect("runs");
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "82\n", "{errors}");
        let first = errors.lines().next().unwrap_or_default();
        match model {
            None => assert!(first.starts_with("demo model: knows sums") && first.contains("--model"), "{errors}"),
            Some(_) => assert_eq!(errors, "", "who asks for it knows"),
        }
    }
    let chat = alone(folder.path()).arg("chat").write_stdin("What is 37 + 45?\n").output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&chat.stdout), "82\n");
    assert!(String::from_utf8_lossy(&chat.stderr).starts_with("demo model: "));
}

/// Standard output whose reader has left.
#[cfg(unix)]
fn closed() -> std::process::Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[cfg(unix)]
#[test]
fn closed_pipes_end_quietly_and_full_devices_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let head = model().join("qwen_lm_head_lut8.mlpackage");
    let head = head.to_str().expect("UTF-8");
    let all: [&[&str]; 9] = [
        &["list", "--json"],
        &["generate", "--prompt", "What is 37 + 45?"],
        &["generate", "--prompt", "What is 37 + 45?", "--json"],
        &["predict", head, "--inputs", "zeros"],
        &["inspect", head],
        &["config", "show"],
        &["config", "path"],
        &["cache"],
        &["completions", "bash"],
    ];
    let run = |arguments: &[&str], out: std::process::Stdio, errors: std::process::Stdio| {
        let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_candle-coreml"));
        c.args(arguments).env("CANDLE_COREML_CONFIG", "/dev/null").env("HF_HUB_OFFLINE", "1");
        c.env("CANDLE_COREML_CACHE", folder.path().join("cache")).env_remove("RUST_LOG");
        let mut child = c.stdin(std::process::Stdio::piped()).stdout(out).stderr(errors).spawn().expect("runs");
        use std::io::Write;
        let _ = child.stdin.take().expect("piped").write_all(b"What is 37 + 45?\n");
        let out = child.wait_with_output().expect("ends");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let full = || std::fs::File::options().write(true).open("/dev/full").ok().map(std::process::Stdio::from);
    for arguments in all {
        let (code, errors) = run(arguments, closed(), std::process::Stdio::piped());
        assert_eq!((code, errors.contains("error")), (Some(0), false), "{arguments:?}: {errors}");
        let Some(device) = full() else { continue };
        let (code, errors) = run(arguments, device, std::process::Stdio::piped());
        assert_eq!(code, Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains("error: ") && !errors.contains("panicked"), "{arguments:?}: {errors}");
        // Errors that nobody can read don't matter either.
        let (code, _) = run(arguments, std::process::Stdio::null(), full().expect("as before"));
        assert_eq!(code, Some(0), "{arguments:?}");
    }
    for out in [Some(closed()), full()].into_iter().flatten() {
        let (code, errors) = run(&["chat"], out, std::process::Stdio::piped());
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains("the answer could not be written: "), "{errors}");
    }
}

/// A regression that returns numbers, and a classifier that returns a label and shares.
fn conformance(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance").join(name)
}

#[test]
fn outputs_that_no_file_is_named_for_are_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let intent = model().join("../tiny-intent/intent.mlpackage");
    let path = |name: &str| folder.path().join(name);
    let predict = |arguments: &[&str]| {
        let out = command().arg("predict").arg(&intent).args(arguments).output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    std::fs::write(path("in.json"), r#"{"input_ids": [[2, 40, 41, 3]], "attention_mask": [[1, 1, 1, 1]]}"#)
        .expect("written");
    let inputs = path("in.json");
    let inputs = inputs.to_str().expect("UTF-8");
    let (code, out, errors) = predict(&["--inputs", inputs]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let printed: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    let logits: Vec<f64> = printed["logits"][0].as_array().expect("a row").iter().filter_map(|v| v.as_f64()).collect();
    assert!(logits.len() > 2 && logits.iter().all(|x| x.is_finite()), "{out}");
    // The same numbers from each kind of file.
    for name in ["out.safetensors", "out.npz", "logits.npy", "out.json", "out.csv", "out.jsonl"] {
        let to = path(name);
        let (code, out, errors) = predict(&["--inputs", inputs, "--outputs", to.to_str().expect("UTF-8")]);
        assert_eq!((code, out.as_str(), errors.as_str()), (Some(0), "", ""), "{name}");
        let found: Vec<f64> = match name.rsplit_once('.').expect("an ending").1 {
            "json" | "jsonl" => {
                let text = std::fs::read_to_string(&to).expect("read");
                let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                all["logits"][0].as_array().expect("a row").iter().filter_map(|v| v.as_f64()).collect()
            }
            "csv" => {
                let text = std::fs::read_to_string(&to).expect("read");
                let mut lines = text.lines();
                assert!(lines.next().expect("a header").starts_with("logits[0][0],logits[0][1]"), "{text}");
                lines.next().expect("a row").split(',').map(|f| f.parse().expect("a number")).collect()
            }
            _ => {
                let all = candle_coreml::tensors::read(&to, &Default::default()).expect("tensors");
                all["logits"].to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
            }
        };
        assert!(found.len() >= logits.len(), "{name}");
        // JSON has the digits of 32 bits.
        assert!(
            found.iter().zip(&logits).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()),
            "{name}: {found:?} {logits:?}"
        );
    }
    let (code, _, errors) = predict(&["--inputs", inputs, "--outputs", "out.png"]);
    assert!(code == Some(1) && errors.contains(".safetensors, .npz, .npy, .json"), "{errors}");
}

#[test]
fn inputs_are_made_up_where_nothing_gives_them() {
    let head = model().join("qwen_lm_head_lut8.mlpackage");
    let predict = |arguments: &[&str]| {
        let out = command().arg("predict").arg(&head).args(arguments).output().expect("runs");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    let (code, random) = predict(&["--inputs", "random"]);
    assert_eq!(code, Some(0), "{random}");
    assert_eq!(predict(&["--inputs", "random", "--seed", "0"]).1, random);
    assert_ne!(predict(&["--inputs", "random", "--seed", "1"]).1, random);
    let (_, zeros) = predict(&["--inputs", "zeros"]);
    let all: serde_json::Value = serde_json::from_str(&zeros).expect("JSON");
    let flat = all.to_string();
    assert!(flat.contains("0.0") && !flat.contains("NaN"), "{flat}");
    let (code, text) = predict(&["--inputs", "zeros", "--seed", "1"]);
    assert!(code == Some(1) && text.contains("--seed is for --inputs random"), "{text}");
    // Strings, integers and dictionaries too.
    let mapping = conformance("classic/mapping.mlmodel");
    let out = command().arg("predict").arg(mapping).args(["--inputs", "zeros"]).output().expect("runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stdout), "{\n  \"y\": -1\n}\n");
}
