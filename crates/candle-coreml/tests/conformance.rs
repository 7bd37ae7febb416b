//! The same models on every engine: each against PyTorch's outputs, and the engines against each other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::anemll::Pipeline;

mod engines;
use engines::{engines, options, tolerance};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Models of the repository with reference outputs.
fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join("conformance/models")).expect("the conformance models");
    let mut all: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    all.retain(|folder| folder.join("reference.safetensors").is_file());
    all.sort();
    assert!(!all.is_empty(), "no reference models");
    all
}

fn reference(folder: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).expect("reference")
}

fn ids(tensors: &HashMap<String, Tensor>, name: &str) -> Vec<u32> {
    let t = tensors[name].to_dtype(DType::U32).expect("integers");
    t.flatten_all().and_then(|t| t.to_vec1()).expect("a vector")
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// Logits after a prompt and after each following token.
fn logits(pipeline: &Pipeline, prompt: &[u32], tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut session = pipeline.session().expect("a session");
    let mut all = vec![pipeline.forward(&mut session, prompt).expect("the prompt")];
    all.extend(tokens.iter().map(|&token| pipeline.forward(&mut session, &[token]).expect("a step")));
    all
}

#[test]
fn every_engine_agrees_with_pytorch() {
    for folder in folders() {
        let reference = reference(&folder);
        for engine in engines() {
            let pipeline = Pipeline::load_with(&folder, &options(engine)).expect("the model loads");
            for prompt in reference.keys().filter_map(|k| k.strip_suffix(".prompt_ids")) {
                let want = reference[&format!("{prompt}.logits.f32")].to_dtype(DType::F32).and_then(|t| t.to_vec2());
                let want: Vec<Vec<f32>> = want.expect("a matrix");
                let greedy = ids(&reference, &format!("{prompt}.greedy_ids"));
                let prompt_ids = ids(&reference, &format!("{prompt}.prompt_ids"));
                let got = logits(&pipeline, &prompt_ids, &greedy[..want.len() - 1]);
                let worst = got.iter().zip(&want).map(|(g, w)| distance(g, w)).fold(0.0, f32::max);
                println!("{}, {engine}, {prompt}: off by at most {worst}", folder.display());
                assert!(worst <= tolerance(engine), "{}, {engine}, {prompt}: off by {worst}", folder.display());
            }
        }
    }
}

#[test]
fn states_keep_conversations_apart_on_every_engine() {
    let folder = repository().join("models/tiny-qwen3");
    for engine in engines() {
        let pipeline = Pipeline::load_with(&folder, &options(engine)).expect("the model loads");
        let alone = logits(&pipeline, &[5, 6, 7], &[8, 9]);
        let (mut a, mut b) = (pipeline.session().expect("a session"), pipeline.session().expect("a session"));
        pipeline.forward(&mut a, &[5, 6, 7]).expect("the prompt");
        pipeline.forward(&mut b, &[50, 60]).expect("another prompt");
        pipeline.forward(&mut a, &[8]).expect("a step");
        pipeline.forward(&mut b, &[70]).expect("a step");
        let last = pipeline.forward(&mut a, &[9]).expect("a step");
        assert_eq!(last, alone[2], "{engine}: the same tokens give the same numbers");
    }
}

#[test]
fn a_state_survives_being_read_and_written_back() {
    let folder = repository().join("models/tiny-qwen3");
    let path = folder.join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    for engine in engines() {
        let model = candle_coreml::CoreMLModel::builder(&path)
            .engine(engine)
            .compute_units(candle_coreml::ComputeUnits::CpuOnly)
            .compiled_models(options(engine).cache.expect("a cache"))
            .function("infer")
            .load()
            .expect("it loads");
        let mut state = model.make_state().expect("a state");
        let name = state.names()[0].to_owned();
        let shape = state.get(&name).expect("its content").dims().to_vec();
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| (i % 1000) as f32).collect();
        let written = Tensor::from_vec(values.clone(), shape, &Device::Cpu).expect("a tensor");
        state.set(&name, &written).expect("written");
        let read = state.get(&name).expect("read").to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        assert_eq!(read.expect("values"), values, "{engine}: integers below 2048 are exact in fp16");
    }
}

/// Both engines on the models of the repository; Core ML also with its own choice of processors.
#[cfg(target_vendor = "apple")]
#[test]
fn both_engines_give_the_same_logits() {
    use candle_coreml::ComputeUnits;
    use candle_coreml::engine::{EngineChoice, EngineOptions};

    let mut all = folders();
    all.push(repository().join("models/tiny-qwen3"));
    for folder in all {
        let load = |options: &EngineOptions| Pipeline::load_with(&folder, options).expect("the model loads");
        let portable = load(&options(EngineChoice::Portable));
        let (prompt, tokens) = ([5, 60, 7, 80, 9, 10, 11], [12, 13, 14]);
        let want = logits(&portable, &prompt, &tokens);
        for units in [ComputeUnits::CpuOnly, ComputeUnits::CpuAndNeuralEngine, ComputeUnits::All] {
            let native = load(&EngineOptions { compute_units: units, ..options(EngineChoice::Native) });
            assert_eq!(native.engine(), "native");
            let got = logits(&native, &prompt, &tokens);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let off = distance(got, want);
                let limit = tolerance(EngineChoice::Native) + tolerance(EngineChoice::Portable);
                println!("{}, {units}, row {i}: off by {off}", folder.display());
                assert!(off <= limit, "{}, {units}, row {i}: off by {off}", folder.display());
            }
        }
    }
}
