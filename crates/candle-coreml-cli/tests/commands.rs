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
    fail(command().args(["generate", "a", "--prompt", "b"]), 2, "--prompt");
    fail(command().args(["generate", "--top-p", "5", "x"]), 2, "from 0 to 1");
    fail(command().args(["generate", "x", "--model", "Qwen3"]), 1, "names on the Hub are org/name");
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

#[test]
fn prompts_are_arguments_options_or_piped() {
    let folder = tempfile::tempdir().expect("a folder");
    let question = "What is the capital of Peru?";
    let ask = |arguments: &[&str], input: &str| {
        let out = alone(folder.path()).args(arguments).write_stdin(input.to_owned()).output().expect("runs");
        (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for (arguments, input) in [
        (&["generate", question][..], ""),
        (&["generate", "-m", "demo", "-p", question], ""),
        (&["generate", "-"], "What is the capital of Peru?\n"),
        (&["generate"], "What is the capital of Peru?\r\n"),
        (&["run", "demo", question], ""),
        (&["run", "demo"], "What is the capital of Peru?"),
        (&["run", "demo", question, "--max-tokens", "20"], ""),
    ] {
        let (said, errors) = ask(arguments, input);
        assert_eq!(said, "Lima\n", "{arguments:?}: {errors}");
    }
    // A system message is part of the prompt.
    let tokens = |arguments: &[&str]| {
        let (said, errors) = ask(&[&["generate", question, "--json"], arguments].concat(), "");
        let report: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{errors}"));
        report["prompt_tokens"].as_array().expect("tokens").len()
    };
    assert!(tokens(&["--system", "Be brief."]) > tokens(&[]) + 9);
}

#[test]
fn inner_values_are_written_and_the_first_that_is_no_number_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let program = r#"program(1.3)
{
    func main<ios17>(tensor<fp32, [4]> x) {
        tensor<fp32, [4]> doubled = add(x = x, y = x)[name = string("doubled")];
        tensor<fp32, [4]> root = sqrt(x = doubled)[name = string("root")];
        tensor<fp32, [4]> y = exp(x = root)[name = string("y")];
    } -> (y);
}
"#;
    std::fs::create_dir(path("m.mlmodelc")).expect("a folder");
    std::fs::write(path("m.mlmodelc/model.mil"), program).expect("written");
    let predict = |inputs: &str, arguments: &[&str]| {
        std::fs::write(path("in.json"), inputs).expect("written");
        let mut c = command();
        c.arg("predict").arg(path("m.mlmodelc")).arg("--inputs").arg(path("in.json")).args(arguments);
        let out = c.output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let trace = path("trace");
    let trace = trace.to_str().expect("UTF-8");
    let (code, out, errors) = predict(r#"{"x": [0, 2, 8, 0.5]}"#, &["--trace", trace, "--check-nan"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("every inner value is a finite number") && out.contains("\"y\""), "{out}{errors}");
    let index = std::fs::read_to_string(path("trace/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    let names: Vec<&str> = index.as_array().expect("rows").iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["doubled", "root", "y"]);
    assert_eq!((&index[1]["max"], &index[1]["operation"]), (&4.0.into(), &"sqrt".into()));
    let file = path("trace").join(index[1]["file"].as_str().expect("a file"));
    let root = candle_coreml::tensors::read(&file, &Default::default()).expect("an array");
    let root: Vec<f32> = root[0].to_vec1().expect("numbers");
    assert_eq!(root, [0.0, 2.0, 4.0, 1.0]);
    // A folder with something in it is left alone.
    let (code, _, errors) = predict(r#"{"x": [0, 2, 8, 0.5]}"#, &["--trace", trace]);
    assert!(code == Some(1) && errors.contains("empty folder"), "{errors}");

    let (code, out, errors) = predict(r#"{"x": [1, -2, 8, 0.5]}"#, &["--check-nan"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(out.contains("\"NaN\""), "what it returns is printed all the same: {out}");
    assert!(errors.contains("`root` (sqrt) is the first operation that yields NaN"), "{errors}");
    assert!(errors.contains("its input x is `doubled`, [4]: -4.000000 to 16.000000"), "{errors}");
    let (code, _, errors) = predict(r#"{"x": [1e9, 0, 0, 0]}"#, &["--check-nan"]);
    assert!(code == Some(1) && errors.contains("`y` (exp) is the first operation that yields infinity"), "{errors}");
}

#[test]
fn models_are_compared_output_by_output_and_then_inside() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = |name: &str, factor: &str| {
        let program = format!(
            r#"program(1.3)
{{
    func main<ios17>(tensor<fp32, [3]> x) {{
        fp32 two = const()[name = string("two"), val = fp32({factor})];
        tensor<fp32, [3]> first = sin(x = x)[name = string("first")];
        tensor<fp32, [3]> scaled = mul(x = first, y = two)[name = string("scaled")];
        tensor<fp32, [3]> y = tanh(x = scaled)[name = string("y")];
        tensor<fp32, [3]> z = cos(x = x)[name = string("z")];
    }} -> (y, z);
}}
"#
        );
        let path = folder.path().join(name);
        std::fs::create_dir(&path).expect("a folder");
        std::fs::write(path.join("model.mil"), program).expect("written");
        path
    };
    let (a, b) = (model("a.mlmodelc", "2"), model("b.mlmodelc", "2.5"));
    let compare = |models: &[&Path], arguments: &[&str]| {
        let out = command().arg("compare").args(models).args(arguments).output().expect("runs");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    let (code, text) = compare(&[&a, &b], &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("differs  y: ") && text.contains("equal    z: "), "{text}");
    assert!(
        text.contains("first operation that differs: `scaled` (mul)") && text.contains("1 of the same name"),
        "{text}"
    );
    let (code, text) = compare(&[&a, &b], &["--json", "--seed", "3"]);
    assert_eq!(code, Some(1), "{text}");
    let json: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&json["differ"], &json["first_operation"]["name"]), (&1.into(), &"scaled".into()), "{text}");
    assert_eq!(compare(&[&a, &b], &["--tolerance", "1"]).0, Some(0));
    assert_eq!(compare(&[&a, &a], &[]).0, Some(0));
    assert_eq!(compare(&[&a], &["--passes", "--inputs", "zeros"]).0, Some(0));
    let (code, text) = compare(&[&a], &[]);
    assert!(code == Some(2) && text.contains("<OTHER>"), "{text}");
    let other = conformance("classic/mapping.mlmodel");
    let (code, text) = compare(&[&a, &other], &[]);
    assert!(code == Some(1), "{text}");
}

#[test]
fn files_that_are_something_else_are_named_and_faults_are_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    std::fs::create_dir(path("m.mlpackage")).expect("a folder");
    for name in ["m.mlpackage/Manifest.json", "m.mlmodel", "in.safetensors", "in.json", "in.csv"] {
        std::fs::write(path(name), pointer).expect("written");
    }
    let intent = model().join("../tiny-intent/intent.mlpackage");
    let fail = |arguments: &[&std::ffi::OsStr]| {
        let out = command().args(arguments).env("RUST_BACKTRACE", "1").output().expect("runs");
        assert_eq!(out.status.code(), Some(1));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!text.contains("backtrace") && !text.contains("   0: "), "{text}");
        text
    };
    for name in ["m.mlpackage", "m.mlmodel"] {
        let text = fail(&["inspect".as_ref(), path(name).as_os_str()]);
        assert!(text.contains("a Git LFS pointer"), "{text}");
    }
    for name in ["in.safetensors", "in.json", "in.csv"] {
        let text = fail(&["predict".as_ref(), intent.as_os_str(), "--inputs".as_ref(), path(name).as_os_str()]);
        assert!(text.contains("a Git LFS pointer"), "{text}");
    }
    // Candle's errors bring a backtrace.
    std::fs::write(path("v.json"), r#"{"input_ids": [[2, 40, 41, 3]], "attention_mask": [[1, 1]]}"#).expect("written");
    fail(&["predict".as_ref(), intent.as_os_str(), "--values".as_ref(), path("v.json").as_os_str()]);
}
