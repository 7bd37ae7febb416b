//! What meets real Macs: files as others keep them, defaults, and models that only Core ML reads. Apple platforms only.
#![cfg(target_vendor = "apple")]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candle_coreml::anemll::Pipeline;
use candle_coreml::engine::{EngineChoice, EngineOptions, NativeOptions, proof};
use candle_coreml::{ComputeUnits, CoreMLModel, CoreMLModelBuilder, FeatureValue};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn folder() -> PathBuf {
    repository().join("models/tiny-qwen3")
}

/// Options with a cache of their own: every test compiles anew.
fn options(cache: &Path, compute_units: ComputeUnits) -> EngineOptions {
    EngineOptions {
        choice: EngineChoice::Native,
        compute_units,
        cache: Some(cache.to_owned()),
        ..EngineOptions::default()
    }
}

fn builder(path: &Path, cache: &Path) -> CoreMLModelBuilder {
    CoreMLModel::builder(path).engine(EngineChoice::Native).compute_units(ComputeUnits::CpuOnly).compiled_models(cache)
}

fn link_files(from: &Path, blobs: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            link_files(&path, blobs, &target);
        } else {
            let count = std::fs::read_dir(blobs).expect("a folder").count();
            let blob = blobs.join(count.to_string());
            std::fs::copy(&path, &blob).expect("copied");
            std::os::unix::fs::symlink(&blob, &target).expect("a link");
        }
    }
}

#[test]
fn packages_made_of_links_are_compiled() {
    let place = tempfile::tempdir().expect("a folder");
    let (blobs, snapshot) = (place.path().join("blobs"), place.path().join("snapshots/c0ffee"));
    std::fs::create_dir(&blobs).expect("a folder");
    link_files(&folder(), &blobs, &snapshot);
    let pipeline = Pipeline::load_with(&snapshot, &options(&place.path().join("cache"), ComputeUnits::CpuOnly));
    let pipeline = pipeline.expect("links are followed");
    let mut session = pipeline.session().expect("a session");
    assert!(!pipeline.forward(&mut session, &[5, 60, 7]).expect("logits").is_empty());
    // A second load finds everything in the cache.
    Pipeline::load_with(&snapshot, &options(&place.path().join("cache"), ComputeUnits::CpuOnly)).expect("cached");
}

#[test]
fn a_state_outlives_the_variable_that_holds_its_model() {
    let cache = tempfile::tempdir().expect("a folder");
    let path = folder().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    let model = builder(&path, cache.path()).function("infer").load().expect("it loads");
    let mut state = model.make_state().expect("a state");
    let name = state.names()[0].to_owned();
    drop(model);
    let ones = state.get(&name).and_then(|t| Ok(t.ones_like()?)).expect("its content");
    state.set(&name, &ones).expect("written");
    state.reset().expect("zeroed");
    let pipeline = Pipeline::load_with(&folder(), &options(cache.path(), ComputeUnits::CpuOnly)).expect("it loads");
    let mut session = pipeline.session().expect("a session");
    pipeline.forward(&mut session, &[5, 60, 7]).expect("logits");
    drop(pipeline);
    assert_eq!(session.tokens(), [5, 60, 7]);
    session.truncate(0);
}

#[test]
fn the_placement_of_a_default_function_is_its_own() {
    let cache = tempfile::tempdir().expect("a folder");
    let path = folder().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    let model = builder(&path, cache.path()).load().expect("it loads");
    assert_eq!(model.function(), model.description().default_function);
    assert_eq!(model.native().expect("on Core ML").options().function.as_deref(), Some(model.function()));
    let placement = model.placement().expect("a plan");
    assert!(!placement.is_empty() && placement.iter().all(|op| op.function == model.function()));
}

#[test]
fn a_neural_network_runs() {
    let cache = tempfile::tempdir().expect("a folder");
    let networks = repository().join("conformance/neural_networks");
    let text = std::fs::read_to_string(networks.join("models.json")).expect("cases");
    let case = &serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["classifier"];
    let numbers = |key: &str| -> Vec<f32> {
        case[key].as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
    };
    let shape: Vec<usize> = numbers("shape").iter().map(|&n| n as usize).collect();
    let pixels = Tensor::from_vec(numbers("pixels"), shape, &Device::Cpu).expect("an image");
    let model = builder(&networks.join("classifier.mlmodel"), cache.path()).load().expect("it loads");
    let outputs = model.predict(&[("picture", pixels)], None).expect("a prediction");
    let FeatureValue::String(label) = &outputs["label"] else { panic!("{:?}", outputs["label"]) };
    assert_eq!(label, case["label"].as_str().expect("a label"));
}

#[test]
fn what_this_library_can_not_read_is_core_mls_to_refuse() {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("a.mlmodel");
    std::fs::write(&file, b"\xff\xff\xff\xff").expect("a file");
    let error = builder(&file, &place.path().join("cache")).load().expect_err("no model").to_string();
    assert!(error.contains("Core ML") && error.contains("this library"), "{error}");
}

#[test]
fn pipelines_run_by_default_without_the_gpu_and_prove_it_first() {
    let cache = tempfile::tempdir().expect("a folder");
    let auto = EngineOptions { cache: Some(cache.path().to_owned()), ..EngineOptions::default() };
    assert_eq!(auto.compute_units, ComputeUnits::CpuAndNeuralEngine);
    let pipeline = Pipeline::load_with(&folder(), &auto).expect("it loads");
    assert_eq!((pipeline.engine(), pipeline.engine_reason()), ("native", "Core ML loads and runs all components"));
    let all = proof::recorded(Some(cache.path())).expect("read");
    assert!(all.iter().any(|r| r.refused.is_none() && r.function.is_none()), "{all:?}");
    let again = Pipeline::load_with(&folder(), &auto).expect("it loads");
    assert_eq!(again.engine_reason(), "Core ML ran it before");
}

#[test]
fn outputs_are_written_where_they_are_wanted() {
    let cache = tempfile::tempdir().expect("a folder");
    let pipeline = Pipeline::load_with(&folder(), &options(cache.path(), ComputeUnits::CpuAndNeuralEngine));
    let pipeline = pipeline.expect("it loads");
    let mut session = pipeline.session().expect("a session");
    pipeline.forward(&mut session, &[5, 60, 7]).expect("logits");
    let uses: Vec<_> = pipeline.components().filter_map(CoreMLModel::backings_in_use).collect();
    // Hidden states go from one component to the next where Core ML wrote them; those of the embeddings have any shape.
    assert!(uses[1..uses.len() - 1].iter().all(|used| used.handed > 0), "{uses:?}");
    println!("{uses:?}");
    assert!(uses.iter().all(|used| used.refused.is_none()), "{uses:?}");
    assert!(uses.iter().any(|used| used.written > 0), "no output has a fixed shape: {uses:?}");
}

#[test]
fn hints_are_taken_and_batches_and_loads_are_watched() {
    use candle_coreml::engine::{CancelLoad, LoadStage, ReshapeFrequency, Specialization, Watch};
    let cache = tempfile::tempdir().expect("a folder");
    let stages = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = stages.clone();
    let watch = Watch::default().observer(move |stage| seen.lock().expect("a lock").push(stage));
    let native = NativeOptions {
        reshape_frequency: Some(ReshapeFrequency::Infrequent),
        specialization: Some(Specialization::FastPrediction),
        low_precision_accumulation: true,
        watch,
        ..NativeOptions::default()
    };
    let path = folder().join("qwen_embeddings.mlpackage");
    let model = builder(&path, cache.path()).native_options(native).load().expect("it loads");
    assert!(stages.lock().expect("a lock").contains(&LoadStage::Compiling));
    let name = model.input_names()[0].clone();
    let one = |id: i64| {
        let ids = Tensor::new(&[[id]], &Device::Cpu).expect("ids");
        vec![(name.clone(), FeatureValue::Tensor(ids))]
    };
    let batch = model.predict_batch(&[one(3), one(5)]).expect("a batch");
    for (outputs, id) in batch.iter().zip([3, 5]) {
        let row = one(id);
        let named: Vec<_> = row.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let alone = model.predict_values(&named, None).expect("a prediction");
        let rows =
            |outputs: &FeatureValue| outputs.tensor().and_then(|t| t.flatten_all().ok()?.to_vec1::<half::f16>().ok());
        assert_eq!(rows(&outputs[0]), rows(&alone[0]));
    }
    let switch = CancelLoad::default();
    switch.cancel();
    let native = NativeOptions { watch: Watch::default().switch(switch), ..NativeOptions::default() };
    assert!(builder(&path, cache.path()).native_options(native).load().is_err());
    builder(&path, cache.path()).prewarm().expect("warm");
}
