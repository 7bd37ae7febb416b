//! Tests that need the framework itself, on the repository's models. They run on Apple platforms; elsewhere they are
//! type-checked at most.
#![cfg(target_vendor = "apple")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use coreml_framework::report::by_device;
use coreml_framework::{ComputeUnits, FeatureValue, Handing, NativeError, NativeModel, Options};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

fn options() -> Options {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    Options { compute_units: ComputeUnits::CpuOnly, cache: Some(cache), ..Options::default() }
}

fn embeddings(options: &Options) -> NativeModel {
    NativeModel::load(&models().join("qwen_embeddings.mlpackage"), options).expect("it loads")
}

fn chunk() -> NativeModel {
    let options = Options { function: Some("infer".to_owned()), ..options() };
    NativeModel::load(&models().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage"), &options).expect("it loads")
}

/// One token id in the declared type.
fn id(n: i32) -> Tensor {
    Tensor::new(&[[n]], &Device::Cpu).expect("an id")
}

fn values(output: &FeatureValue) -> Vec<f32> {
    let FeatureValue::Tensor(tensor) = output else { panic!("{output:?}") };
    tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).expect("values")
}

/// Inputs of the chunk for its first token.
fn inputs(model: &NativeModel) -> Vec<(String, Tensor)> {
    use coreml_format::description::FeatureType;
    let tensor = |name: &str, shape: &[usize]| match name {
        "hidden_states" => Tensor::ones(shape, DType::F16, &Device::Cpu),
        _ => Tensor::zeros(shape, DType::F16, &Device::Cpu),
    };
    let features = &model.function_description().inputs;
    let ready = features.iter().map(|f| match &f.ty {
        FeatureType::MultiArray { shape, .. } => (f.name.clone(), tensor(&f.name, shape).expect("a tensor")),
        other => panic!("{other:?}"),
    });
    ready.collect()
}

fn named(inputs: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread on a future.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn lent_copied_and_backed_predictions_are_the_same() {
    let model = embeddings(&options());
    let name = model.function_description().inputs[0].name.clone();
    let ids = id(7);
    let want = model.predict(&[(name.as_str(), &ids)], None).expect("a prediction");
    let (output, want) = want.first().map(|(name, output)| (name.clone(), values(output))).expect("an output");
    assert!(want.iter().any(|x| *x != 0.0));
    for options in [Options { lend_inputs: false, ..options() }, Options { output_backings: true, ..options() }] {
        let model = embeddings(&options);
        // Twice: reused memory must not keep anything of the first prediction.
        let run = |ids: &Tensor| values(&model.predict(&[(name.as_str(), ids)], None).expect("a prediction")[&output]);
        assert_ne!(run(&id(3)), want, "{options:?}");
        assert_eq!(run(&ids), want, "{options:?}");
    }
}

#[test]
fn outputs_are_written_into_the_arrays_that_are_offered() {
    // Plain memory without the Neural Engine, surfaces with it.
    for units in [ComputeUnits::CpuOnly, ComputeUnits::CpuAndNeuralEngine] {
        let options = Options { compute_units: units, output_backings: true, ..options() };
        let infer = Options { function: Some("infer".to_owned()), ..options.clone() };
        let path = models().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
        let model = NativeModel::load(&path, &infer).expect("it loads");
        let (mut state, inputs) = (model.new_state().expect("a state"), inputs(&model));
        for _ in 0..3 {
            model.predict(&named(&inputs), Some(&mut state)).expect("a prediction");
        }
        let used = model.backings_in_use();
        println!("{units}: {used:?}");
        assert_eq!((used.refused, used.written, used.replaced), (None, 3, 0), "{units}, hidden states");

        let head = NativeModel::load(&models().join("qwen_lm_head_lut8.mlpackage"), &options).expect("it loads");
        let hidden = head.function_description().inputs[0].clone();
        let coreml_format::description::FeatureType::MultiArray { shape, .. } = hidden.ty else { panic!("{hidden:?}") };
        let zeros = Tensor::zeros(shape, DType::F16, &Device::Cpu).expect("zeros");
        let outputs = head.predict(&[(hidden.name.as_str(), &zeros)], None).expect("logits");
        let used = head.backings_in_use();
        println!("{units}: {used:?}");
        let count = u64::try_from(outputs.len()).expect("few");
        assert_eq!((used.refused, used.written, used.replaced), (None, count, 0), "{units}, logits");
    }
    let model = embeddings(&Options { output_backings: true, ..options() });
    assert_eq!(model.backings_in_use(), Default::default());
}

#[test]
fn what_is_handed_on_is_what_would_be_copied() {
    for (units, output_backings) in
        [(ComputeUnits::CpuOnly, false), (ComputeUnits::CpuOnly, true), (ComputeUnits::CpuAndNeuralEngine, true)]
    {
        let options = Options { compute_units: units, output_backings, surfaces: true, ..options() };
        let infer = Options { function: Some("infer".to_owned()), ..options.clone() };
        let load = |name: &str, options: &Options| {
            let path = models().join(format!("qwen_FFN_PF_lut6_chunk_{name}.mlpackage"));
            NativeModel::load(&path, options).expect("it loads")
        };
        let (first, second) = (load("01of02", &infer), load("02of02", &infer));
        let output = first.function_description().outputs[0].name.clone();
        let inputs = inputs(&first);
        let rest: Vec<_> = named(&inputs).into_iter().filter(|(name, _)| *name != "hidden_states").collect();
        let (mut copied, mut handed) = (first.new_state().expect("a state"), first.new_state().expect("a state"));
        let mut kept = Vec::new();
        for step in 0..4 {
            let outputs = first.predict(&named(&inputs), Some(&mut copied)).expect("a prediction");
            let hidden = outputs[&output].tensor().expect("a tensor").clone();
            let mut all = rest.clone();
            all.push(("hidden_states", &hidden));
            let want = values_of_all(&second.predict(&all, Some(&mut copied)).expect("a prediction"));

            let handing = Handing { input: None, output: &output };
            let array = first.predict_handing(&named(&inputs), handing, Some(&mut handed)).expect("an array");
            let input = ("hidden_states", &*array);
            let got = second.predict_handed(&rest, Some(input), Some(&mut handed)).expect("a prediction");
            assert_eq!(values_of_all(&got), want, "{units}, step {step}");
            let hidden = values(&FeatureValue::Tensor(hidden));
            let read = || values(&FeatureValue::Tensor(array.read().expect("read")));
            assert_eq!(read(), hidden, "{units}, step {step}");
            // Nothing writes to an array that is held.
            first.predict(&named(&inputs), Some(&mut handed)).expect("a prediction");
            first.predict(&named(&inputs), Some(&mut copied)).expect("a prediction");
            assert_eq!(read(), hidden, "{units}, step {step}, later");
            if step > 1 {
                kept.push(array.clone());
            }
        }
        if output_backings {
            assert_eq!(first.backings_in_use().handed, 4, "{units}");
        }
        // Arrays of another shape, names that are not, and inputs given twice.
        let array = kept.pop().expect("an array");
        let state = || second.new_state().expect("a state");
        assert!(second.predict_handed(&rest, Some(("causal_mask", &array)), Some(&mut state())).is_err());
        assert!(second.predict_handed(&rest, Some(("no_such_input", &array)), Some(&mut state())).is_err());
        assert!(second.predict_handed(&named(&inputs), Some(("hidden_states", &array)), Some(&mut state())).is_err());
        let handing = Handing { input: None, output: "no_such_output" };
        assert!(second.predict_handing(&named(&inputs), handing, Some(&mut state())).is_err());
    }
}

/// Maximum absolute difference between two results.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

#[test]
fn surfaces_and_plain_memory_give_the_same() {
    let steps = |options: Options| {
        let options = Options { function: Some("infer".to_owned()), compute_units: ComputeUnits::All, ..options };
        let path = models().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
        let model = NativeModel::load(&path, &options).expect("it loads");
        let (mut state, mut inputs) = (model.new_state().expect("a state"), inputs(&model));
        let step = |n: usize| {
            // New hidden states in each step, so that stale ones in a reused surface would show.
            let hidden = inputs.iter_mut().find(|(name, _)| name == "hidden_states").expect("hidden states");
            let count = hidden.1.elem_count();
            let values: Vec<f32> = (0..count).map(|i| ((i + n * 7) % 13) as f32 / 13.0).collect();
            let tensor = Tensor::from_vec(values, hidden.1.dims(), &Device::Cpu).and_then(|t| t.to_dtype(DType::F16));
            hidden.1 = tensor.expect("a tensor");
            values_of_all(&model.predict(&named(&inputs), Some(&mut state)).expect("a prediction"))
        };
        (0..4).map(step).collect::<Vec<_>>()
    };
    let plain = steps(Options { surfaces: false, ..options() });
    assert!(plain.windows(2).all(|w| w[0] != w[1]), "steps differ");
    for output_backings in [false, true] {
        let got = steps(Options { surfaces: true, output_backings, ..options() });
        for (n, (got, want)) in got.iter().zip(&plain).enumerate() {
            let off = distance(got, want);
            // The same program on the same processors; fp16 near 1 has steps of 0.001.
            assert!(off <= 0.01, "step {n}, backings {output_backings}: off by {off}");
        }
    }
}

fn values_of_all(outputs: &indexmap::IndexMap<String, FeatureValue>) -> Vec<f32> {
    outputs.values().flat_map(values).collect()
}

#[cfg(feature = "metal")]
#[test]
fn metal_tensors_give_what_those_on_the_cpu_give() {
    let device = Device::new_metal(0).expect("a Metal device");
    let model = chunk();
    let cpu = inputs(&model);
    let predict = |inputs: &[(String, Tensor)]| {
        let mut state = model.new_state().expect("a state");
        values_of_all(&model.predict(&named(inputs), Some(&mut state)).expect("a prediction"))
    };
    let want = predict(&cpu);
    // Copied to the device: shared memory, which is lent. Results of operations: private memory on macOS.
    let shared: Vec<_> = cpu.iter().map(|(n, t)| (n.clone(), t.to_device(&device).expect("a tensor"))).collect();
    assert_eq!(predict(&shared), want);
    let computed: Vec<_> = shared.iter().map(|(n, t)| (n.clone(), (t * 1.0).expect("a tensor"))).collect();
    assert_eq!(predict(&computed), want);
}

#[test]
fn what_is_lent_comes_back() {
    let model = embeddings(&options());
    let name = model.function_description().inputs[0].name.clone();
    for n in 0..8 {
        model.predict(&[(name.as_str(), &id(n))], None).expect("a prediction");
    }
    // Core ML may keep the inputs of the last prediction until another one.
    let began = Instant::now();
    let mut since = began;
    while model.lent() > 0 {
        if since.elapsed() > Duration::from_secs(5) {
            model
                .predict(&[(name.as_str(), &id(9).to_dtype(DType::I64).expect("copied"))], None)
                .expect("a prediction");
            since = Instant::now();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{} tensors are still lent", model.lent());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn batches_and_futures_give_what_single_predictions_give() {
    let model = embeddings(&options());
    let name = model.function_description().inputs[0].name.clone();
    let ids: Vec<Tensor> = (1..6).map(id).collect();
    let one = |ids: &Tensor| values(&model.predict(&[(name.as_str(), ids)], None).expect("a prediction")[0]);
    let want: Vec<_> = ids.iter().map(one).collect();
    let batch: Vec<_> = ids.iter().map(|t| vec![(name.as_str(), t)]).collect();
    let got: Vec<_> = model.predict_batch(&batch).expect("a batch").iter().map(|o| values(&o[0])).collect();
    assert_eq!(got, want);
    assert!(model.predict_batch::<&Tensor>(&[]).expect("nothing").is_empty());
    // All concurrently.
    let started: Vec<_> = ids.iter().map(|t| model.predict_async(&[(name.as_str(), t)]).expect("started")).collect();
    let got: Vec<_> = started.into_iter().map(|p| values(&block_on(p).expect("a prediction")[0])).collect();
    assert_eq!(got, want);
    let again = block_on(NativeModel::load_async(models().join("qwen_embeddings.mlpackage"), options()));
    let got = again.expect("it loads").predict(&[(name.as_str(), &ids[0])], None).expect("a prediction");
    assert_eq!(values(&got[0]), want[0]);
}

#[test]
fn states_change_by_predictions_and_by_hand() {
    let model = chunk();
    let inputs = inputs(&model);
    let mut state = model.new_state().expect("a state");
    let name = state.names()[0].to_owned();
    let sum = |state: &coreml_framework::NativeState| {
        let sum = state.get(&name).and_then(|t| Ok(t.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?));
        sum.expect("its content")
    };
    assert_eq!(sum(&state), 0.0);
    let first = model.predict(&named(&inputs), Some(&mut state)).expect("a prediction");
    assert!(sum(&state) > 0.0, "the cache was written");
    state.reset().expect("zeros");
    assert_eq!(sum(&state), 0.0);
    let (second, state) =
        block_on(model.predict_async_with_state(&named(&inputs), state).expect("started")).expect("a prediction");
    assert_eq!(values(&first[0]), values(&second[0]));
    assert!(sum(&state) > 0.0);
    assert!(matches!(model.predict(&named(&inputs), None), Err(NativeError::Feature { .. })), "a state is needed");
    assert!(model.predict_batch(&[named(&inputs)]).is_err(), "no batches with states");
}

#[test]
fn the_plan_names_every_operation_and_the_devices_exist() {
    let devices = coreml_framework::devices().expect("a list");
    assert!(devices.iter().any(|d| d.kind == coreml_framework::report::DeviceKind::Cpu), "{devices:?}");
    let plan = chunk().compute_plan().expect("a plan");
    assert!(plan.iter().all(|op| op.function == "infer" && !op.operator.is_empty()));
    let sums = by_device(&plan);
    println!("{devices:?}: {sums:?}");
    assert!(!sums.is_empty(), "some operation runs somewhere");
    assert!(!block_on(embeddings(&options()).compute_plan_async()).expect("a plan").is_empty());
}

#[test]
fn sources_are_compiled_once_and_damage_is_repaired() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { cache: Some(folder.path().to_owned()), ..options() };
    let first = embeddings(&options);
    let compiled = first.compiled_path().to_owned();
    assert!(compiled.starts_with(folder.path()));
    let made = std::fs::metadata(&compiled).and_then(|m| m.modified()).expect("a time");
    let second = embeddings(&options);
    assert_eq!(second.compiled_path(), compiled);
    assert_eq!(std::fs::metadata(&compiled).and_then(|m| m.modified()).expect("a time"), made, "not compiled again");
    drop((first, second));
    for entry in std::fs::read_dir(&compiled).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() { std::fs::remove_file(path) } else { std::fs::remove_dir_all(path) }.expect("removed");
    }
    embeddings(&options);
    // A compiled model is loaded in place.
    let direct = NativeModel::load(&compiled, &options).expect("it loads");
    assert_eq!(direct.compiled_path(), compiled);
}

#[test]
fn a_model_is_loaded_from_memory() {
    let data = models().join("qwen_embeddings.mlpackage/Data/com.apple.CoreML");
    let read = |name: &str| std::fs::read(data.join(name)).expect("a file");
    let weights = vec![("@model_path/weights/weight.bin".to_owned(), read("weights/weight.bin"))];
    let model = NativeModel::from_memory(read("model.mlmodel"), weights, &options()).expect("it loads");
    let name = model.function_description().inputs[0].name.clone();
    let run = |model: &NativeModel| values(&model.predict(&[(name.as_str(), &id(7))], None).expect("a prediction")[0]);
    assert_eq!(run(&model), run(&embeddings(&options())));
    assert!(model.compute_plan().is_err(), "plans are made of files");
    assert!(NativeModel::from_memory(vec![0xff; 64], Vec::new(), &options()).is_err());
}

#[test]
fn what_does_not_fit_never_reaches_the_framework() {
    let model = embeddings(&options());
    let name = model.function_description().inputs[0].name.clone();
    let predict = |inputs: &[(&str, &Tensor)]| model.predict(inputs, None).expect_err("refused").kind();
    let wide = Tensor::new(&[[1_i64 << 40]], &Device::Cpu).expect("an id");
    assert_eq!(predict(&[(name.as_str(), &wide)]), "value");
    assert_eq!(predict(&[("other", &id(1))]), "unknown");
    assert_eq!(predict(&[]), "feature");
    assert_eq!(predict(&[(name.as_str(), &id(1)), (name.as_str(), &id(1))]), "feature");
    let cube = Tensor::zeros((1, 1, 1, 1, 1), DType::I32, &Device::Cpu).expect("zeros");
    assert_eq!(predict(&[(name.as_str(), &cube)]), "shape");
    let missing = NativeModel::load(Path::new("no/such.mlpackage"), &options()).expect_err("nothing there");
    assert_eq!(missing.kind(), "cache", "{missing}");
    let function = Options { function: Some("nope".to_owned()), ..options() };
    let path = models().join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    assert!(NativeModel::load(&path, &function).is_err());
}
