//! Models of every type with changed fields: decoded, lowered, planned and run, without a fuzzer. Nothing may panic or hang, and
//! rows that are predicted together give what they give alone.
//!
//! `MODELS_SECONDS=600 cargo test --release -p coreml-engine --test models -- --ignored --nocapture` goes on for longer.

#[allow(unreachable_pub, reason = "a fuzz target uses it as a module of its own")]
#[path = "../../../fuzz/src/models.rs"]
mod models;
#[allow(unreachable_pub, reason = "a fuzz target uses it as a module of its own")]
#[path = "../../../fuzz/src/wire.rs"]
mod wire;

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use coreml_engine::{Executable, FeatureValue, Options};
use coreml_format::model::Model;
use coreml_format::model_types::data_structures::{ClassLabels, Int64Vector};
use coreml_format::model_types::tree_ensemble::{EvaluationInfo, TreeEnsembleClassifier};
use coreml_format::model_types::{Body, Bytes};
use coreml_format::spec;
use coreml_format::weights::Weights;
use safetensors::SafeTensors;

/// Longest that an input of a few kilobytes may take, on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

/// Small models of every type.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance");
    let mut found = Vec::new();
    for folder in ["classic", "values", "pipelines", "images", "custom", "neural_networks"] {
        for path in std::fs::read_dir(root.join(folder)).expect("models").flatten().map(|f| f.path()) {
            let name = path.display().to_string();
            match path.extension().and_then(|e| e.to_str()) {
                Some("mlmodel") => found.push((name, std::fs::read(&path).expect("a model"))),
                Some("safetensors") => {
                    let bytes = std::fs::read(&path).expect("cases");
                    let Ok(cases) = SafeTensors::deserialize(&bytes) else { continue };
                    let models = cases.iter().filter(|(case, _)| case.ends_with("/model"));
                    found.extend(models.map(|(case, t)| (format!("{name} {case}"), t.data().to_vec())));
                }
                _ => {}
            }
        }
    }
    found.retain(|(_, bytes)| bytes.len() < 64 << 10);
    found.sort();
    assert!(found.len() > 150, "{} seeds", found.len());
    found
}

/// Runs a model with changes from a seed.
fn changed(name: &str, bytes: &[u8], seed: u64) {
    let mut dice = wire::Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut message = bytes.to_vec();
    for _ in 0..=dice.roll(4) {
        message = wire::mutate(&message, &mut dice);
    }
    let started = Instant::now();
    let outcome = std::panic::catch_unwind(|| models::run(&message));
    assert!(outcome.is_ok(), "{name}, seed {seed}: it panics");
    let took = started.elapsed();
    assert!(took < LONGEST, "{name}, seed {seed}: {took:?}");
}

#[test]
fn models_with_changed_fields_run_or_are_refused() {
    for (i, (name, bytes)) in seeds().iter().enumerate() {
        models::run(bytes);
        for seed in 0..24 {
            changed(name, bytes, seed + 1000 * i as u64);
        }
    }
}

#[test]
#[ignore = "as long as MODELS_SECONDS says"]
fn for_longer() {
    let seconds = std::env::var("MODELS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let (started, seeds) = (Instant::now(), seeds());
    let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64);
    let mut count = 0u64;
    while started.elapsed() < Duration::from_secs(seconds) {
        let (name, bytes) = &seeds[count as usize % seeds.len()];
        changed(name, bytes, seed);
        seed = seed.wrapping_add(1);
        count += 1;
    }
    println!("{count} inputs");
}

/// A classifier of trees of four features with changes.
fn trees(change: impl FnOnce(&mut TreeEnsembleClassifier)) -> Executable {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/classic/decision_tree.mlmodel");
    let spec::Specification { description, mut body, parts } =
        spec::decode(&Bytes::copy_from_slice(&std::fs::read(path).expect("a model"))).expect("a specification");
    let Body::TreeEnsembleClassifier(model) = &mut body else { panic!("no trees") };
    change(model);
    let model = Model { path: "changed".into(), description, body, parts, weights: Weights::default() };
    let program = coreml_lower::lower(&model).expect("a program");
    let options = Options { lowered: true, ..Options::default() };
    Executable::load(&program, &Weights::default(), "main", &options).expect("it loads")
}

fn features() -> FeatureValue {
    Tensor::zeros(4, DType::F64, &Device::Cpu).expect("a tensor").into()
}

#[test]
fn trees_that_compare_a_feature_far_beyond_the_input_reserve_no_memory_for_it() {
    let executable = trees(|model| {
        let nodes = &mut model.tree_ensemble.as_mut().expect("trees").nodes;
        nodes.iter_mut().find(|n| n.node_behavior != 6).expect("a branch").branch_feature_index = u64::from(u32::MAX);
    });
    let row = vec![Cow::Owned(features())];
    let error = executable.predict_rows(&[row.clone(), row.clone(), row]).expect_err("too few features");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("trees that compare 4294967296"), "{error}: {cause}");
}

#[test]
fn of_equal_probabilities_the_first_class_wins() {
    // As scikit-learn's forests: argmax of [0.5, 0.5].
    let executable = trees(|model| {
        let trees = model.tree_ensemble.as_mut().expect("trees");
        trees.nodes.retain(|n| n.node_behavior == 6);
        trees.nodes.truncate(1);
        trees.nodes[0].evaluation_info = vec![EvaluationInfo { evaluation_index: 0, evaluation_value: 0.5 }];
        (trees.num_prediction_dimensions, trees.base_prediction_value) = (1, vec![0.0]);
        model.class_labels = Some(ClassLabels::Int64s(Int64Vector { vector: vec![3, 8] }));
    });
    let outputs = executable.predict(&[("input", features())], None).expect("it runs");
    let label = outputs["classLabel"].tensor().and_then(|t| t.to_scalar::<i64>().ok());
    assert_eq!(label, Some(3), "{outputs:?}");
}
