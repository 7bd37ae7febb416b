//! `candle-coreml inspect`: pictures and the Neural Engine estimate, from outside.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_coreml::description::{FeatureDescription, FeatureType, FunctionDescription, Metadata, ModelDescription};
use candle_coreml::format::program::Program;
use candle_coreml::format::spec;

fn inspect(arguments: &[&str], model: &Path) -> (bool, String, String) {
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    let run = command.arg("inspect").args(arguments).arg(model).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (run.status.success(), text(&run.stdout), text(&run.stderr))
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn chunk() -> PathBuf {
    models().join("tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage")
}

#[test]
fn a_picture_shows_functions_layers_weights_and_the_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("graph.svg");
    let (success, _, errors) = inspect(&["--svg", file.to_str().expect("UTF-8")], &chunk());
    assert!(success, "{errors}");
    let picture = std::fs::read_to_string(&file).expect("a picture");
    for part in [
        "<svg ",
        "function infer · ios18 · 172 operations",
        "function prefill",
        ">layers 0<",
        ">layers 1<",
        "self_attn_q_proj_weight: 6-bit table × 24",
        "fp16 [192, 192, 1, 1]",
        "model_model_kv_cache_0",
        "output_hidden_states",
        "causal_mask",
    ] {
        assert!(picture.contains(part), "{part}");
    }
    let (success, one, _) = inspect(&["--svg", "-", "--function", "infer"], &chunk());
    assert!(success && one.contains("function infer") && !one.contains("function prefill"));
    let (success, _, errors) = inspect(&["--svg", "-", "--function", "nfer"], &chunk());
    assert!(!success && errors.contains("`nfer`") && errors.contains("infer, prefill"), "{errors}");
}

#[test]
fn every_shipped_model_can_be_drawn() {
    for name in ["tiny-qwen3/qwen_embeddings", "tiny-qwen3/qwen_lm_head_lut8", "tiny-intent/intent"] {
        let (success, picture, errors) = inspect(&["--svg", "-"], &models().join(format!("{name}.mlpackage")));
        assert!(success && picture.starts_with("<svg ") && picture.ends_with("</svg>\n"), "{name}: {errors}");
    }
}

#[test]
fn the_estimate_names_rules_operations_and_itself_an_estimate() {
    let (success, text, errors) = inspect(&["--ane", "--function", "infer"], &chunk());
    assert!(success, "{errors}");
    for part in ["An estimate", "function infer (172 operations; needs iOS 18", "integers", "gather", "computed"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("function prefill"));
    let (_, json, _) = inspect(&["--ane", "--json"], &chunk());
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let infer = &report["functions"][0];
    let counts = infer["counts"].as_object().expect("counts");
    let total: u64 = counts.values().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!((total, infer["operations"].as_array().map(Vec::len)), (172, Some(172)));
    // All products of this model are convolutions and matrix products of fp16 values with fixed shapes.
    assert_eq!(infer["shares_of_multiplications"]["likely"], 1.0);
    let rules: std::collections::BTreeSet<&str> = infer["operations"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|o| o["reasons"].as_array().into_iter().flatten())
        .filter_map(|r| r["rule"].as_str())
        .collect();
    assert_eq!(rules.into_iter().collect::<Vec<_>>(), ["computed", "gather", "integers"]);
}

/// A text classifier that takes a number, a string, a dictionary and a sequence, with two labels: a type that can't be run.
fn classifier() -> Vec<u8> {
    let features = [
        ("age", FeatureType::Double),
        ("rooms", FeatureType::Int64),
        ("town", FeatureType::String),
        ("words", FeatureType::Dictionary { int_keys: false }),
        ("ids", FeatureType::Sequence { ints: true }),
    ];
    let feature = |(name, ty): (&str, _)| FeatureDescription {
        name: name.to_owned(),
        description: String::new(),
        ty,
        optional: false,
    };
    let function = FunctionDescription {
        inputs: features.map(feature).into(),
        outputs: vec![feature(("label", FeatureType::String))],
        ..Default::default()
    };
    let description = ModelDescription {
        specification_version: 4,
        functions: [("main".to_owned(), function)].into_iter().collect(),
        default_function: "main".to_owned(),
        metadata: Metadata { author: "the test".to_owned(), ..Default::default() },
    };
    let mut bytes = spec::encode(&description, &Program::default());
    // In place of the empty ML Program (field 502), a textClassifier (field 2000) with class labels (field 200).
    assert_eq!(bytes.split_off(bytes.len() - 5), [0xb2, 0x1f, 2, 8, 1]);
    bytes.extend([0x82, 0x7d, 13, 0xc2, 0x0c, 10, 0x0a, 3, b'c', b'a', b't', 0x0a, 3, b'd', b'o', b'g']);
    bytes
}

#[test]
fn types_that_cannot_be_run_are_described_and_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.mlmodel");
    std::fs::write(&file, classifier()).expect("written");
    let (success, text, errors) = inspect(&[], &file);
    assert!(success, "{errors}");
    for part in [
        "type: textClassifier, which can't be run",
        "NaturalLanguage",
        "author: the test",
        "2 class labels: cat, dog",
        "age",
        "rooms",
        "town",
        "words",
        "ids",
        "output  label",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (success, text, errors) = inspect(&["--json"], &file);
    assert!(success, "{errors}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["type"], "textClassifier");
    assert_eq!(report["class_labels"], serde_json::json!(["cat", "dog"]));
    assert_eq!(report["description"]["functions"]["main"]["inputs"][0]["name"], "age");
    for option in ["--mil", "--ane"] {
        let (success, _, errors) = inspect(&[option], &file);
        assert!(!success && errors.contains("textClassifier"), "{errors}");
    }
    let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
    let run =
        command.args(["predict", "--engine", "portable", "--values", "/dev/null"]).arg(&file).output().expect("runs");
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && errors.contains("is a textClassifier, which can't be run"), "{errors}");
    assert!(errors.contains("NaturalLanguage") && errors.contains("On a Mac"), "{errors}");
}

#[test]
fn a_folder_says_how_its_language_model_is_driven() {
    let (success, text, errors) = inspect(&[], &models().join("tiny-qwen3"));
    assert!(success, "{errors}");
    for part in [
        "a language model",
        "ANEMLL, embeddings, 2 chunk(s)",
        "prompts in batches of 32",
        "context: 256",
        "function prefill",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (success, text, _) = inspect(&["--json"], &models().join("tiny-qwen3"));
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(success && report["dimensions"]["context"] == 256 && report["greedy_only"] == false, "{text}");
    let (success, _, errors) = inspect(&[], &models().join("tiny-intent"));
    assert!(
        !success && errors.contains("no language model either: ") && errors.contains("`hidden_states`"),
        "{errors}"
    );
}

/// A copy of a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

#[test]
fn a_folder_says_what_sampling_its_model_recommends() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&models().join("tiny-qwen3"), folder.path());
    let config = r#"{"do_sample": true, "temperature": 0.25, "top_k": 20, "eos_token_id": [257, 258]}"#;
    std::fs::write(folder.path().join("generation_config.json"), config).expect("written");
    let (success, text, errors) = inspect(&[], folder.path());
    assert!(success, "{errors}");
    assert!(text.contains("recommended sampling:") && text.contains("0.25") && text.contains("257, 258"), "{text}");
    let (_, text, _) = inspect(&["--json"], folder.path());
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["recommended_sampling"]["top_k"], 20, "{text}");
}

/// What people have instead of a language model: one sentence, whatever the verb.
#[test]
fn a_folder_without_a_language_model_is_told_in_one_sentence() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    for (files, part) in [
        (&[][..], "an empty folder"),
        (&[("README.md", "x")], "neither Core ML packages nor a checkpoint"),
        (&[("a.mlpackage.zip", "PK")], "is a zip archive: unpack it with `unzip '"),
        (&[("a.zip", "PK"), ("b.zip", "PK")], "its 2 models are zip archives"),
        (&[("inner/config.json", "{}"), ("inner/model.safetensors", "x")], "the model is in the folder `"),
        (&[("m.gguf", "GGUF")], "GGUF model of llama.cpp"),
        (&[("config.json", "{}"), ("pytorch_model.bin", "x")], "weights of PyTorch"),
        (&[("model.onnx", "x")], "a model for another runtime"),
        (&[("model.safetensors", "x")], "no config.json"),
        (&[("config.json", "{}"), ("tokenizer.json", "{}")], "download the weights too"),
        (&[("config.json", "{}"), ("model.safetensors", pointer)], "git lfs pull"),
        (
            &[
                (
                    "config.json",
                    r#"{"model_type": "mamba", "vocab_size": 1, "hidden_size": 1, "intermediate_size": 1,
            "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 1, "rms_norm_eps": 0.1}"#,
                ),
                ("model.safetensors", "\u{8}\0\0\0\0\0\0\0{}      "),
            ],
            "model_type `mamba`: expected qwen2, qwen3",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("written");
        }
        let mut command = Command::cargo_bin("candle-coreml").expect("the command is built");
        command.env("CANDLE_COREML_CONFIG", "/dev/null").args(["generate", "--prompt", "Hi", "--model"]);
        let run = command.arg(folder.path()).output().expect("runs");
        let errors = String::from_utf8_lossy(&run.stderr);
        let lines: Vec<&str> = errors.lines().collect();
        assert!(!run.status.success() && errors.contains(part), "{part}: {errors}");
        assert_eq!(lines.len(), 1, "{errors}");
        assert!(!errors.contains("; ") && !errors.contains("backend"), "{errors}");
    }
}
