//! Choice of engine, and errors if the chosen one is unavailable.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::anemll::Pipeline;
use candle_coreml::engine::{EngineChoice, EngineOptions, native_is_available};
use candle_coreml::{ComputeUnits, CoreMLModel, CoreMLModelBuilder, CoreMLState, Error};

mod engines;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

fn builder(engine: EngineChoice) -> CoreMLModelBuilder {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    CoreMLModel::builder(folder().join("qwen_embeddings.mlpackage"))
        .engine(engine)
        .compute_units(ComputeUnits::CpuOnly)
        .compiled_models(cache)
}

fn chunk(function: &str) -> CoreMLModelBuilder {
    let path = folder().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    CoreMLModel::builder(path).engine(engines::engine()).function(function)
}

#[test]
fn the_portable_engine_runs_everywhere_and_says_so() {
    let model = builder(EngineChoice::Portable).load().expect("it loads");
    assert_eq!((model.engine(), model.engine_reason()), ("portable", "it was asked for"));
    let placement = model.placement().expect("a report");
    assert!(!placement.is_empty());
    assert!(placement.iter().all(|op| op.preferred == Some(candle_coreml::engine::DeviceKind::Cpu)));
}

#[test]
fn auto_gives_a_reason_and_a_model_that_predicts() {
    let model = builder(EngineChoice::Auto).load().expect("it loads");
    if native_is_available() {
        assert!(model.engine_reason().contains("Core ML"), "{}", model.engine_reason());
    } else {
        assert_eq!((model.engine(), model.engine_reason()), ("portable", "this platform has no Core ML"));
    }
    let ids = Tensor::new(&[[1_i64]], &Device::Cpu).expect("ids");
    let row = model.forward(&ids).expect("a prediction");
    assert!(row.device().is_cpu(), "on the device of the input");
    let pipeline = Pipeline::load_with(&folder(), &EngineOptions::default()).expect("it loads");
    assert!(!pipeline.engine_reason().is_empty());
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn asking_for_core_ml_elsewhere_is_an_error_that_says_what_to_do() {
    let error = builder(EngineChoice::Native).load().expect_err("no Core ML here");
    assert!(matches!(error, Error::Unavailable(_)));
    let text = error.to_string();
    for part in ["qwen_embeddings.mlpackage", "Core ML", std::env::consts::OS, "Portable"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    let options = EngineOptions::default().with_choice(EngineChoice::Native);
    assert!(matches!(Pipeline::load_with(&folder(), &options), Err(Error::Unavailable(_))));
}

#[test]
fn states_belong_to_one_engine_and_one_layout() {
    let infer = chunk("infer").load().expect("it loads");
    let prefill = chunk("prefill").load().expect("it loads");
    let mut state = CoreMLState::shared_by(&[&infer, &prefill]).expect("they declare the same");
    assert_eq!(state.engine(), infer.engine());
    let name = state.names().first().map(|n| n.to_string()).expect("a state");
    let zeros = state.get(&name).expect("its content");
    let ones = zeros.ones_like().expect("ones");
    state.set(&name, &ones).expect("the same shape");
    let read = state.get(&name).and_then(|t| Ok(t.to_dtype(DType::F32)?.flatten_all()?.min(0)?.to_scalar::<f32>()?));
    assert_eq!(read.expect("a minimum"), 1.0);
    state.reset().expect("zeros again");
    let read = state.get(&name).and_then(|t| Ok(t.to_dtype(DType::F32)?.flatten_all()?.max(0)?.to_scalar::<f32>()?));
    assert_eq!(read.expect("a maximum"), 0.0);
    assert!(state.set(&name, &zeros.flatten_all().expect("flat")).is_err(), "another shape");
    assert!(matches!(state.get("other"), Err(Error::NotFound { what: "state", .. })));
}

#[test]
fn inputs_are_checked_before_the_engine_is_called() {
    for engine in engines::engines() {
        let model = builder(engine).load().expect("it loads");
        let name = model.input_names()[0].clone();
        let predict = |name: &str, ids: Tensor| model.predict(&[(name, ids)], None).map(|_| ());
        let ids = |v: &[f64]| Tensor::new(v, &Device::Cpu).and_then(|t| t.reshape((1, v.len()))).expect("ids");
        let error = predict(&name, ids(&[0.5])).expect_err("not whole");
        assert!(matches!(&error, Error::Input { name: n, .. } if *n == name), "{engine}: {error}");
        let error = predict(&name, ids(&[3e9])).expect_err("beyond int32");
        assert!(error.to_string().contains("3000000000"), "{engine}: {error}");
        assert!(matches!(predict("other", ids(&[1.0])), Err(Error::NotFound { what: "input", .. })));
        let flat = Tensor::new(&[1_i64], &Device::Cpu).expect("one id");
        assert!(matches!(predict(&name, flat), Err(Error::Input { .. })), "{engine}: another rank");
        predict(&name, ids(&[1.0])).expect("a whole number is an id");
    }
}

#[test]
fn unknown_functions_are_errors_on_every_engine() {
    for engine in engines::engines() {
        let error = chunk("nope").engine(engine).load().expect_err("no such function").to_string();
        assert!(error.contains("nope") && error.contains("infer"), "{engine}: {error}");
    }
}

#[test]
fn loading_by_path_stays_as_it_was() {
    let model = CoreMLModel::load(folder().join("qwen_embeddings.mlpackage")).expect("it loads");
    assert_eq!(model.functions(), [model.function()]);
    assert!(!model.is_stateful());
    assert!(model.make_state().expect("a state without buffers").names().is_empty());
}

/// Results are returned on the device of the inputs.
#[cfg(all(target_vendor = "apple", feature = "metal"))]
#[test]
fn metal_tensors_go_in_and_come_out() {
    let Ok(metal) = Device::new_metal(0) else {
        eprintln!("SKIPPED: no Metal device");
        return;
    };
    for engine in engines::engines() {
        let model = builder(engine).load().expect("it loads");
        let ids = Tensor::new(&[[7_u32]], &metal).expect("ids");
        let row = model.forward(&ids).expect("a prediction");
        assert!(row.device().is_metal(), "{engine}");
        let on_cpu = model.forward(&ids.to_device(&Device::Cpu).expect("moved")).expect("a prediction");
        let values =
            |t: &Tensor| t.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("values");
        assert_eq!(values(&row), values(&on_cpu), "{engine}");
    }
}
