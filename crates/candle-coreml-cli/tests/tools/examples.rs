//! Every example in every help text, as it stands there, in a shell: without a network, in a folder with the files that it names.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_coreml::description::{ColorLayout, FeatureType, ShapeConstraint};
use candle_coreml::format::{dtype::DataType, program::Opset};
use candle_coreml::write::{self, FunctionBuilder, PackageBuilder};

use super::models;

const VERBS: &str = " predict generate run chat bench inspect list rm cache doctor completions man weights edit merge split \
                     compress convert decompress compile compare serve setup config ps stop pull path";

/// Examples that can't succeed here, by a part of them, and what their errors say instead.
const FAILING: [(&str, &str); 8] = [
    ("rm org/name", "org/name is not in the cache"),
    ("path org/name", "`candle-coreml pull org/name"),
    ("org/name", "offline mode (HF_HUB_OFFLINE) forbids downloading it"),
    // Chooses a model by the machine's memory.
    ("chat --device cuda", "offline mode (HF_HUB_OFFLINE) forbids downloading it"),
    ("candle-coreml stop", "no server runs"),
    // Asks, and nobody answers.
    ("candle-coreml setup", "nothing was changed"),
    ("--engines", "Core ML"),
    // It tells by its exit code that they differ.
    ("compare model.mlpackage small.mlpackage", "1 of 1 outputs differ"),
];

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        std::fs::copy(from, to).map(|_| ()).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        return;
    }
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry")) {
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

/// A package with the functions `infer` and `prefill` of a norm and two linear layers, `q_proj` and `embed`, or of one over a state.
fn package(path: &Path, stateful: bool) -> Result<(), Box<dyn std::error::Error>> {
    let weight = |rows: usize, columns: usize| {
        let values = (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu)
    };
    let mut package = PackageBuilder::create(path)?;
    let up = write::weight(&mut package, &weight(512, 128)?, DType::F16)?;
    let down = write::weight(&mut package, &weight(128, 512)?, DType::F16)?;
    for name in ["infer", "prefill"] {
        let mut f = FunctionBuilder::new(Opset::Ios18);
        let mut x = f.input("x", DataType::F16, [1, 128])?;
        if stateful {
            let state = f.state("sum", DataType::F16, &[1, 128])?;
            let known = f.read_state(&state)?;
            x = f.op("add").arg("x", &x).arg("y", &known).done()?;
            f.write_state(&state, &x)?;
        }
        let up = f.constant("q_proj", up.clone())?;
        let down = f.constant("embed", down.clone())?;
        let x = f.op("layer_norm").arg("x", &x).arg("axes", [1i32]).done()?;
        let wide = f.op("linear").arg("x", &x).arg("weight", &up).done()?;
        let y = f.op("linear").arg("x", &wide).arg("weight", &down).done()?;
        f.output("y", &y)?;
        package.add(name, f)?;
    }
    Ok(package.finish()?)
}

/// A package that gives three classes of an image of 8 × 8 pixels their means of red, green and blue.
fn classifier(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut package = PackageBuilder::create(path)?;
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let image = f.input("image", DataType::F32, [1, 3, 8, 8])?;
    let scores = f.op("reduce_mean").arg("x", &image).arg("axes", [2i32, 3]).arg("keep_dims", false).done()?;
    f.output("scores", &scores)?;
    let (function, mut description) = f.finish()?;
    description.inputs[0].ty =
        FeatureType::Image { layout: ColorLayout::Rgb, width: 8, height: 8, sizes: ShapeConstraint::Fixed };
    package.add_finished("main", function, description)?;
    Ok(package.finish()?)
}

fn tensors(path: &Path, all: &[(&str, Tensor)]) -> Result<(), Box<dyn std::error::Error>> {
    Ok(candle_core::safetensors::save(&all.iter().cloned().collect(), path)?)
}

/// Runs a line in a shell, in a folder that is its home.
fn shell(line: &str, folder: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder).stdin(Stdio::null());
    command.env("HOME", folder).env("PATH", format!("{}:{path}", folder.join("bin").display()));
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", folder.join("hf")).env("PROFILE", folder.join("profile"));
    command
        .env("CANDLE_COREML_CACHE", folder.join("cache"))
        .env_remove("CANDLE_COREML_CONFIG")
        .env_remove("XDG_CONFIG_HOME");
    // Help texts in unbroken lines.
    command.env("COLUMNS", "1000").env_remove("RUST_LOG");
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// The files that examples name.
fn prepare(at: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let conformance = models().join("../conformance");
    for folder in
        ["bin", "photos", "App", ".zfunc", ".config/fish/completions", ".local/share/bash-completion/completions"]
    {
        std::fs::create_dir_all(at.join(folder))?;
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_candle-coreml"), at.join("bin/candle-coreml"))?;
    for other in ["jq", "resvg", "less", "man"] {
        let script = at.join("bin").join(other);
        std::fs::write(&script, "#!/bin/sh\ncat >/dev/null\n")?;
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let chunk = models().join("tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    for name in ["chunk.mlpackage", "a.mlpackage", "b.mlpackage", "M"] {
        copy(&chunk, &at.join(name));
    }
    for (from, to) in [
        ("checkpoints/qwen3-tied-bf16", "Qwen3-0.6B"),
        ("checkpoints/gemma3-rotating-f16", "gemma-3-270m-it"),
        ("checkpoints/llama-rope3-f16", "Llama-3.2-1B"),
        ("checkpoints/qwen2.5-shards-f32", "path/to/Qwen2.5-0.5B-Instruct"),
        ("encoders/bert-mean-shards-f32", "sentence-transformers/all-MiniLM-L6-v2"),
        ("encoders/bert-texts-f16", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("classic/scaled_logistic.mlmodel", "pipeline.mlmodel"),
    ] {
        copy(&conformance.join(from), &at.join(to));
    }
    copy(&models().join("tiny-qwen3"), &at.join("path/to/model"));
    // Made small for the checkpoint's tests; its weights don't know.
    let config = at.join("gemma-3-270m-it/config.json");
    let mut gemma: serde_json::Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    gemma["sliding_window"] = 512.into();
    std::fs::write(&config, gemma.to_string())?;
    std::fs::write(at.join("key.txt"), "sk-test\n")?;
    for file in ["cat.jpg", "photos/dog.jpg"] {
        // By its content.
        image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, 99])).save(at.join("picture.png"))?;
        copy(&at.join("picture.png"), &at.join(file));
    }
    package(&at.join("model.mlpackage"), false)?;
    package(&at.join("stateful.mlpackage"), true)?;
    classifier(&at.join("classifier.mlpackage"))?;
    let x = Tensor::arange(0f32, 128.0, &Device::Cpu)?.reshape((1, 128))?;
    for name in ["in.safetensors", "a.safetensors", "b.safetensors"] {
        tensors(&at.join(name), &[("x", x.clone())])?;
    }
    x.write_npy(at.join("x.npy"))?;
    tensors(&at.join("state.safetensors"), &[("sum", x.to_dtype(DType::F16)?)])?;
    std::fs::write(at.join("in.json"), format!("{{\"x\": {:?}}}", x.to_vec2::<f32>()?))?;
    for line in [
        "candle-coreml predict model.mlpackage --inputs in.safetensors --outputs out.npz && mv out.npz in.npz",
        "candle-coreml compress model.mlpackage --out small.mlpackage --bits 6",
        "candle-coreml compile model.mlpackage -o model.mlmodelc",
        "candle-coreml convert Qwen3-0.6B --to anemll --out qwen --context 128",
        "candle-coreml edit pipeline.mlmodel --out model.mlmodel --set key=value",
        "candle-coreml split pipeline.mlmodel --out joined && mv joined/pipeline_1_* scaler.mlmodel",
        "candle-coreml weights extract model.mlpackage new.safetensors",
    ] {
        let output = shell(line, at).output()?;
        assert!(output.status.success(), "{line}: {}", said(&output));
    }
    // The outputs' file has the right form, and the wrong tensors.
    let rows = candle_core::npy::NpzTensors::new(at.join("in.npz"))?;
    assert!(rows.get("y")?.is_some());
    Tensor::write_npz(&[("x", x)], at.join("in.npz"))?;
    let names = candle_core::safetensors::load(at.join("new.safetensors"), &Device::Cpu)?;
    let name = names.keys().find(|n| n.contains("q_proj")).ok_or("a weight")?;
    let low = |rows: usize, columns: usize| Tensor::full(0.5f32, (rows, columns), &Device::Cpu);
    let (a, b) = (format!("{name}.lora_A"), format!("{name}.lora_B"));
    tensors(&at.join("lora.safetensors"), &[(&a, low(2, 128)?), (&b, low(512, 2)?)])
}

/// Changes a copy of the folder where one example means another file of that name.
fn adapt(example: &str, at: &Path) {
    let take = |from: &str, to: &str| {
        let to = at.join(to);
        if to.is_dir() {
            std::fs::remove_dir_all(&to).expect("removed");
        }
        copy(&at.join(from), &to);
    };
    let remove = |name: &str| std::fs::remove_dir_all(at.join(name)).expect("removed");
    match example {
        e if e.contains("--state ") => take("stateful.mlpackage", "model.mlpackage"),
        e if e.contains("merge --pipeline") => take("joined/pipeline_2_glmClassifier.mlmodel", "classifier.mlpackage"),
        // New files are not written over others.
        e if e.contains("-o model.mlpackage") => remove("model.mlpackage"),
        e if e.contains("--out small.mlpackage") => remove("small.mlpackage"),
        e if e.contains("compile model.mlpackage") => remove("model.mlmodelc"),
        e if e.contains("convert Qwen3") => remove("qwen"),
        _ => {}
    }
}

/// All examples: lines below the heading, without the remarks, which two spaces or more set off.
fn examples(at: &Path) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for verb in VERBS.split(' ') {
        let output = shell(&format!("candle-coreml {verb} --help"), at).output().expect("runs");
        let help = said(&output);
        let list = help.split_once("Examples:\n").map(|(_, rest)| rest).unwrap_or_else(|| panic!("{verb}: {help}"));
        let lines = list.lines().take_while(|line| line.starts_with("  ")).filter(|line| !line.starts_with("   "));
        let own = lines.map(|line| line.trim().split("  ").next().unwrap_or_default().to_owned());
        all.extend(own.filter(|example| !example.is_empty()));
    }
    all.sort();
    all.dedup();
    all
}

/// Starts a server as the example says, but on a free port; ends it when it listens.
fn serve(example: &str, at: &Path) -> Result<(), String> {
    let log = at.join("served.txt");
    let port = if example.contains("--port") {
        example.replace("--port 9000", "--port 0")
    } else {
        format!("{example} --port 0")
    };
    let file = std::fs::File::create(&log).expect("a file");
    let mut server = shell(&format!("exec {port}"), at);
    let mut server = server.stdout(file.try_clone().expect("a file")).stderr(file).spawn().expect("runs");
    let until = Instant::now() + Duration::from_secs(60);
    let outcome = loop {
        let text = std::fs::read_to_string(&log).expect("text");
        if text.contains("listening on") {
            break Ok(());
        }
        if server.try_wait().expect("a status").is_some() || Instant::now() > until {
            break Err(text);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let _ = server.kill();
    let _ = server.wait();
    outcome
}

#[test]
fn examples_do_what_they_say() {
    let base = tempfile::tempdir().expect("a folder");
    prepare(base.path()).expect("the files");
    let all = examples(base.path());
    assert!(all.len() > 80, "{} examples", all.len());
    let mut wrong = Vec::new();
    for example in &all {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("home");
        let copied = Command::new("cp").arg("-R").arg(base.path()).arg(&at).status().expect("cp");
        assert!(copied.success());
        adapt(example, &at);
        let failing = FAILING.iter().find(|(part, _)| example.contains(part) && !example.contains("non-interactive"));
        if example.contains("candle-coreml serve") && failing.is_none() {
            wrong.extend(serve(example, &at).err().map(|text| format!("{example}: {text}")));
            continue;
        }
        let output = shell(example, &at).output().expect("runs");
        let fits = match failing {
            None => output.status.success(),
            Some((_, reason)) => output.status.code() == Some(1) && said(&output).contains(reason),
        };
        if !fits {
            wrong.push(format!("{example}: {:?}: {}", output.status.code(), said(&output)));
        }
    }
    assert!(wrong.is_empty(), "{} of {} examples:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}
