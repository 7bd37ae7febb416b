//! Whole models against PyTorch's outputs, teacher-forced.
//!
//! Runs on every folder in `conformance/models` and, if present, on the reference models in the folder set by
//! `CANDLE_COREML_SHARED` (default: `shared` beside the repository).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::anemll::{Components, Pipeline, discovery};
use candle_coreml::description::{FeatureDescription, FeatureType, FunctionDescription};
use candle_coreml::engine::EngineChoice;
use candle_coreml::format::mil_text::{self, Dialect};
use candle_coreml::format::model::Model;
use candle_coreml::generation::{Message, Tokenizer};
use candle_coreml::model::PassSet;

mod engines;
use engines::{engines, options, tolerance};

/// Absolute tolerance on logits whose standard deviation is 3 to 4: f32 arithmetic with an fp16 state.
const TOLERANCE: f32 = 0.03;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn folders() -> Vec<PathBuf> {
    let shared = std::env::var_os("CANDLE_COREML_SHARED").map_or_else(|| repository().join("../shared"), PathBuf::from);
    let mut all = Vec::new();
    for root in [repository().join("conformance/models"), shared.join("models")] {
        let Ok(entries) = std::fs::read_dir(&root) else { continue };
        all.extend(entries.flatten().map(|e| e.path()).filter(|p| p.join("reference.safetensors").is_file()));
    }
    all.sort();
    // A plain clone has no reference models; if a folder is set explicitly, their absence is a failure.
    if all.is_empty() {
        assert!(std::env::var_os("CANDLE_COREML_SHARED").is_none(), "no reference models in {}", shared.display());
        eprintln!("SKIPPED: no reference models in {}", shared.display());
    }
    all
}

/// All folders on all engines.
fn on_engines() -> Vec<(PathBuf, EngineChoice)> {
    folders().into_iter().flat_map(|f| engines().into_iter().map(move |e| (f.clone(), e))).collect()
}

fn ids(tensors: &HashMap<String, Tensor>, name: &str) -> Vec<u32> {
    let t = tensors[name].to_dtype(DType::U32).expect("integers");
    t.flatten_all().and_then(|t| t.to_vec1()).expect("a vector")
}

fn rows(tensors: &HashMap<String, Tensor>, name: &str) -> Vec<Vec<f32>> {
    tensors[name].to_dtype(DType::F32).and_then(|t| t.to_vec2()).expect("a matrix")
}

/// Largest absolute difference.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

fn agree(components: &Components, passes: &PassSet, folder: &Path) {
    let pipeline = Pipeline::from_components(components, passes).expect("the model loads");
    let reference =
        candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).expect("reference");
    let prompts: Vec<&str> = reference.keys().filter_map(|k| k.strip_suffix(".prompt_ids")).collect();
    assert!(!prompts.is_empty());
    for prompt in prompts {
        let want = rows(&reference, &format!("{prompt}.logits.f32"));
        let greedy = ids(&reference, &format!("{prompt}.greedy_ids"));
        let mut session = pipeline.session().expect("a session");
        let mut got =
            vec![pipeline.forward(&mut session, &ids(&reference, &format!("{prompt}.prompt_ids"))).expect("prompt")];
        for &token in greedy.iter().take(want.len() - 1) {
            got.push(pipeline.forward(&mut session, &[token]).expect("a step"));
        }
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let distance = distance(got, want);
            assert!(distance <= TOLERANCE, "{}, prompt {prompt}, row {i}: off by {distance}", folder.display());
        }
    }
}

#[test]
fn logits_agree_with_pytorch_with_and_without_each_rewrite() {
    for folder in folders() {
        let components = discovery::discover(&folder).expect("components");
        agree(&components, &PassSet::all(), &folder);
        agree(&components, &PassSet::none(), &folder);
        for pass in coreml_engine::passes::ALL {
            agree(&components, &PassSet::all().without(pass.name), &folder);
        }
    }
}

/// A folder like `from` with compiled models: the program as text, the weights beside it, and (for the newer dialect)
/// metadata.
fn compiled(from: &Path, to: &Path, dialect: Dialect) {
    for entry in std::fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry").path()) {
        let name = entry.file_name().expect("a name").to_owned();
        if entry.extension().is_none_or(|e| e != "mlpackage") {
            if entry.is_file() {
                std::fs::copy(&entry, to.join(name)).expect("copied");
            }
            continue;
        }
        let model = Model::open(&entry).expect("it opens");
        let folder = to.join(name).with_extension("mlmodelc");
        std::fs::create_dir_all(folder.join("weights")).expect("a folder");
        std::fs::write(folder.join("model.mil"), mil_text::print_as(model.body.program().expect("a program"), dialect))
            .expect("written");
        let weights = entry.join("Data/com.apple.CoreML/weights/weight.bin");
        if weights.is_file() {
            std::fs::copy(weights, folder.join("weights/weight.bin")).expect("copied");
        }
        if dialect == Dialect::V1_3 {
            let user = &model.description.metadata.user;
            let functions: Vec<_> = model.description.functions.iter().map(schema).collect();
            let metadata = serde_json::json!([{"userDefinedMetadata": user, "functions": functions}]);
            std::fs::write(folder.join("metadata.json"), metadata.to_string()).expect("written");
        }
    }
}

/// Schemas as the compiler writes them: numbers are strings.
fn schema((name, function): (&String, &FunctionDescription)) -> serde_json::Value {
    let list = |features: &[FeatureDescription]| -> Vec<_> {
        let entry = |f: &FeatureDescription| {
            let (kind, dtype, shape) = match &f.ty {
                FeatureType::MultiArray { dtype, shape, .. } => ("MultiArray", dtype, shape),
                FeatureType::State { dtype, shape } => ("State", dtype, shape),
                other => panic!("{other:?}"),
            };
            let dtype = match dtype.name() {
                "fp16" => "Float16",
                "fp32" => "Float32",
                _ => "Int32",
            };
            serde_json::json!({"name": f.name, "type": kind, "dataType": dtype, "shape": format!("{shape:?}")})
        };
        features.iter().map(entry).collect()
    };
    serde_json::json!({
        "name": name,
        "inputSchema": list(&function.inputs),
        "outputSchema": list(&function.outputs),
        "stateSchema": list(&function.states),
    })
}

#[test]
fn compiled_models_agree_with_pytorch_in_both_dialects() {
    for folder in folders() {
        for dialect in [Dialect::V1_0, Dialect::V1_3] {
            let copy = tempfile::tempdir().expect("a folder");
            compiled(&folder, copy.path(), dialect);
            let components = discovery::discover(copy.path()).expect("components");
            agree(&components, &PassSet::all(), copy.path());
        }
    }
}

#[test]
fn a_full_window_slides_as_in_the_reference() {
    for (folder, engine) in on_engines() {
        let file = folder.join("reference_shift.safetensors");
        if !file.is_file() {
            continue;
        }
        let reference = candle_core::safetensors::load(&file, &Device::Cpu).expect("reference");
        let (want, tokens) = (rows(&reference, "logits"), ids(&reference, "tokens"));
        let pipeline = Pipeline::load_with(&folder, &options(engine)).expect("the model loads");
        let mut session = pipeline.session().expect("a session");
        let mut logits = pipeline.forward(&mut session, &ids(&reference, "prompt_ids")).expect("prompt");
        for (i, (want, &token)) in want.iter().zip(&tokens).enumerate() {
            let distance = distance(&logits, want);
            assert!(distance <= tolerance(engine), "{}, row {i}: off by {distance}", folder.display());
            logits = pipeline.forward_with_shift(&mut session, token).expect("a step");
        }
    }
}

#[test]
fn a_conversation_that_grows_gives_the_same_logits_as_one_that_starts_anew() {
    for (folder, engine) in on_engines() {
        let reference =
            candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).expect("reference");
        let pipeline = Pipeline::load_with(&folder, &options(engine)).expect("the model loads");
        let prompt = ids(&reference, "short.prompt_ids");
        let mut grown = pipeline.session().expect("a session");
        pipeline.forward(&mut grown, &prompt).expect("prompt");
        let more: Vec<u32> = prompt.iter().rev().copied().collect();
        let a = pipeline.forward(&mut grown, &more).expect("more");
        let mut fresh = pipeline.session().expect("a session");
        let b = pipeline.forward(&mut fresh, &[prompt, more].concat()).expect("all");
        // A token that used `infer` in one run uses `prefill` in the other.
        let multi_chunk = discovery::discover(&folder).expect("components").chunks.len() > 1;
        if !multi_chunk {
            assert!(distance(&a, &b) <= tolerance(engine), "{}", folder.display());
        }
        assert_eq!(grown.tokens(), fresh.tokens());
    }
}

#[test]
fn prompts_that_do_not_fit_are_errors() {
    for (folder, engine) in on_engines() {
        let pipeline = Pipeline::load_with(&folder, &options(engine)).expect("the model loads");
        let mut session = pipeline.session().expect("a session");
        let long = vec![1; pipeline.dimensions().context + 1];
        assert!(pipeline.forward(&mut session, &long).expect_err("too long").to_string().contains("context"));
        assert!(pipeline.forward(&mut session, &[]).is_err());
        let outside = pipeline.dimensions().vocab as u32;
        assert!(
            pipeline.forward(&mut session, &[outside]).expect_err("no such token").to_string().contains("vocabulary")
        );
        // The whole context is usable.
        pipeline.forward(&mut session, &long[1..]).expect("a full window");
    }
}

#[test]
fn chat_templates_give_the_texts_and_ids_of_transformers() {
    for folder in folders() {
        let file = folder.join("reference_chat.json");
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let tokenizer = Tokenizer::load(&folder).expect("tokenizer");
        for (name, case) in all {
            let Some(messages) = case.get("messages") else { continue };
            let messages: Vec<Message> = serde_json::from_value(messages.clone()).expect("messages");
            let thinking = case.get("enable_thinking").and_then(serde_json::Value::as_bool);
            let text = tokenizer.chat_template().expect("a template").render(&messages, thinking).expect("a text");
            assert_eq!(text, case["text"].as_str().expect("text"), "{}, {name}", file.display());
            let want: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
            assert_eq!(tokenizer.encode(&text).expect("ids"), want, "{}, {name}", file.display());
        }
    }
}
