//! Packages with functions, inputs, outputs or states that the pipeline does not understand are refused by name, never run
//! without them. A small model as compiled text, with one thing changed.

use std::path::{Path, PathBuf};

use candle_coreml::anemll::Pipeline;
use candle_coreml::anemll::discovery::discover;
use candle_coreml::format::mil_text::{self, Dialect};
use candle_coreml::format::model::Model;

/// The conformance model as compiled models, with `change` applied to the text of its chunk.
fn changed(change: &dyn Fn(&str) -> String) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/models/llama-c1-lut6");
    let to = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry").path()) {
        let name = entry.file_name().expect("a name").to_owned();
        if entry.extension().is_none_or(|e| e != "mlpackage") {
            if entry.is_file() {
                std::fs::copy(&entry, to.path().join(name)).expect("copied");
            }
            continue;
        }
        let model = Model::open(&entry).expect("it opens");
        let folder = to.path().join(&name).with_extension("mlmodelc");
        std::fs::create_dir_all(folder.join("weights")).expect("a folder");
        let text = mil_text::print_as(model.body.program().expect("a program"), Dialect::V1_0);
        let chunk = name.to_string_lossy().contains("FFN");
        let text = if chunk {
            let changed = change(&text);
            assert_ne!(changed, text, "the change must find something");
            changed
        } else {
            text
        };
        std::fs::write(folder.join("model.mil"), text).expect("written");
        let weights = entry.join("Data/com.apple.CoreML/weights/weight.bin");
        if weights.is_file() {
            std::fs::copy(weights, folder.join("weights/weight.bin")).expect("copied");
        }
    }
    to
}

#[track_caller]
fn refused(change: &dyn Fn(&str) -> String, parts: &[&str]) {
    let folder = changed(change);
    let error = Pipeline::load(folder.path()).expect_err("refused").to_string();
    for part in parts {
        assert!(error.contains(part), "expected `{part}` in: {error}");
    }
}

#[test]
fn an_unchanged_model_runs() {
    let folder = changed(&|text| format!("{text}\n"));
    let pipeline = Pipeline::load(folder.path()).expect("it loads");
    let mut session = pipeline.session().expect("a session");
    assert!(pipeline.forward(&mut session, &[1, 2, 3]).is_ok());
}

#[test]
fn unknown_functions() {
    refused(&|text| text.replace("func prefill<", "func prefill_long<"), &["FFN", "`prefill_long`"]);
    refused(&|text| text.replace("func infer<", "func init<"), &["`init`"]);
}

#[test]
fn unknown_inputs() {
    refused(&|text| text.replace("position_ids", "rotary_position"), &["rotary_position"]);
    refused(&|text| text.replace("current_pos", "valid_len"), &["valid_len"]);
}

#[test]
fn states_that_are_no_caches() {
    refused(&|text| text.replace("model_model_kv_cache_0", "model_model_ssm_0"), &["model_model_ssm_0", "recurrent"]);
}

/// `update_mask` has a column for each token; a mask of another shape would be written elsewhere.
#[test]
fn update_masks_of_other_shapes() {
    let with = |shape: &'static str| {
        move |text: &str| {
            text.replace(
                "tensor<int32, [1]> current_pos",
                &format!("tensor<int32, [1]> current_pos, tensor<fp16, {shape}> update_mask"),
            )
        }
    };
    refused(&with("[1, 1, 64, 2]"), &["update_mask", "[1, 1, 64, 2]"]);
    refused(&with("[64]"), &["update_mask", "[64]"]);
}

/// Two variants of the layers side by side: the file of one chooses it, else `meta.yaml`; nothing is guessed.
#[test]
fn of_several_variants_one_is_named() {
    let folder = changed(&|text| text.replace("func infer<", "\nfunc infer<"));
    let files = || std::fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("an entry").path());
    let is_chunk = |path: &PathBuf| path.to_string_lossy().contains("FFN");
    let chunk = files().find(is_chunk).expect("a chunk");
    let other = PathBuf::from(chunk.to_string_lossy().replace("_lut6", "_lut4"));
    assert_ne!(chunk, other);
    std::fs::create_dir_all(other.join("weights")).expect("a folder");
    for part in ["model.mil", "weights/weight.bin"] {
        std::fs::copy(chunk.join(part), other.join(part)).expect("copied");
    }
    std::fs::remove_file(folder.path().join("meta.yaml")).expect("removed");
    let error = Pipeline::load(folder.path()).expect_err("refused").to_string();
    for part in ["variants of chunk 1", "_lut6_chunk", "_lut4_chunk", "meta.yaml"] {
        assert!(error.contains(part), "expected `{part}` in: {error}");
    }
    let chosen = |path: &Path| discover(path).expect("found").chunks[0].infer.0.path.clone();
    assert_eq!(chosen(&other), other);
    assert_eq!(chosen(&chunk), chunk);
    Pipeline::load(&other).expect("it loads");

    let name = other.file_name().expect("a name").to_string_lossy().into_owned();
    let meta = format!("model_info:\n  parameters:\n    ffn: {name}\n");
    std::fs::write(folder.path().join("meta.yaml"), meta).expect("written");
    assert_eq!(chosen(folder.path()), other);
    assert_eq!(chosen(&chunk), chunk, "what is asked for wins");

    let head = files().find(|p| p.to_string_lossy().contains("lm_head")).expect("a head");
    let twin = head.with_file_name("another_lm_head.mlmodelc");
    std::fs::create_dir_all(twin.join("weights")).expect("a folder");
    for part in ["model.mil", "weights/weight.bin"].into_iter().filter(|p| head.join(p).is_file()) {
        std::fs::copy(head.join(part), twin.join(part)).expect("copied");
    }
    let error = Pipeline::load(folder.path()).expect_err("refused").to_string();
    assert!(error.contains("another_lm_head") && error.contains("`lm_head`"), "{error}");
}
