//! Language models in one file against Hugging Face transformers: `conformance/single_file`, which
//! `tools/single_file_models.py` writes.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_coreml::anemll::{Pipeline, Session};

/// Absolute, on logits whose standard deviation is about 3: f32 arithmetic with fp16 weights and states.
const TOLERANCE: f32 = 0.03;

const LAYOUTS: [(&str, &str); 6] = [
    ("stateful", "caches as states: up to 24 tokens"),
    ("per-layer", "caches as states: up to 1 tokens"),
    ("batch", "caches as states: up to 8 tokens"),
    ("passed", "caches go in and come out"),
    ("stateless", "without caches"),
    ("ids-only", "without caches"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/single_file")
}

fn load(name: &str) -> Pipeline {
    Pipeline::load(&folder().join(format!("{name}.mlpackage"))).expect("it loads")
}

/// Ids of the prompts and the logits after each of them.
fn references() -> Vec<(String, Vec<u32>, Vec<Vec<f32>>)> {
    let all = candle_core::safetensors::load(folder().join("reference.safetensors"), &Device::Cpu).expect("references");
    let mut names: Vec<&str> = all.keys().filter_map(|k| k.strip_suffix(".ids")).collect();
    names.sort_unstable();
    assert_eq!(names, ["edge", "full", "long", "one", "short"]);
    let one = |name: &&str| {
        let ids = all[&format!("{name}.ids")].to_dtype(DType::U32).and_then(|t| t.to_vec1()).expect("ids");
        (name.to_string(), ids, all[&format!("{name}.logits")].to_vec2().expect("rows"))
    };
    names.iter().map(one).collect()
}

fn agree(got: &[f32], want: &[f32], at: &str) {
    assert_eq!(got.len(), want.len(), "{at}");
    let off = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(off <= TOLERANCE, "{at}: off by {off}");
}

fn run(pipeline: &Pipeline, session: &mut Session, ids: &[u32], at: &str) -> Vec<f32> {
    pipeline.forward(session, ids).unwrap_or_else(|e| panic!("{at}: {e}"))
}

#[test]
fn every_layout_agrees_at_once_one_by_one_in_parts_and_again() {
    for (name, how) in LAYOUTS {
        let pipeline = load(name);
        assert!(pipeline.layout().contains(how), "{name}: {}", pipeline.layout());
        let sizes = pipeline.dimensions();
        assert_eq!((sizes.context, sizes.vocab), (24, 97), "{name}");
        let mut session = pipeline.session().expect("a session");
        for (prompt, ids, want) in references() {
            let at = format!("{name}, {prompt}");
            session.truncate(0);
            agree(&run(&pipeline, &mut session, &ids, &at), &want[ids.len() - 1], &at);
            assert_eq!(session.tokens(), ids, "{at}");
            session.truncate(0);
            for (i, id) in ids.iter().enumerate() {
                agree(&run(&pipeline, &mut session, &[*id], &at), &want[i], &format!("{at}, token {i}"));
            }
            // Every prefix is reused, and other tokens that were there leave nothing.
            for cut in 0..ids.len() {
                session.truncate(cut);
                let rest = &ids[cut..];
                agree(&run(&pipeline, &mut session, rest, &at), &want[ids.len() - 1], &format!("{at}, from {cut}"));
            }
        }
    }
}

#[test]
fn a_full_context_is_an_error_or_slides() {
    for (name, _) in LAYOUTS {
        let pipeline = load(name);
        let mut session = pipeline.session().expect("a session");
        let all: Vec<u32> = (0..24).collect();
        run(&pipeline, &mut session, &all, name);
        let error = pipeline.forward(&mut session, &[1]).expect_err("no room").to_string();
        assert!(error.contains("context of 24"), "{name}: {error}");
        let slid = pipeline.forward_with_shift(&mut session, 5).expect("it slides");
        assert_eq!(session.tokens().len(), 13, "{name}");
        let mut fresh = pipeline.session().expect("a session");
        let tail: Vec<u32> = (12..24).chain([5]).collect();
        agree(&slid, &run(&pipeline, &mut fresh, &tail, name), name);
        assert!(pipeline.forward(&mut session, &[97]).is_err() && pipeline.forward(&mut session, &[]).is_err());
    }
}

#[test]
fn a_model_that_sees_later_tokens_is_refused() {
    let pipeline = load("masked");
    for count in [3, 24] {
        let mut session = pipeline.session().expect("a session");
        let ids: Vec<u32> = (1..=count).collect();
        let error = pipeline.forward(&mut session, &ids).expect_err("not causal").to_string();
        assert!(error.contains("with the token that follows"), "{error}");
    }
}

#[test]
fn a_folder_with_several_models_asks_for_one() {
    let error = Pipeline::load(&folder()).expect_err("several").to_string();
    assert!(error.contains("several language models") && error.contains("per-layer.mlpackage"), "{error}");
}
