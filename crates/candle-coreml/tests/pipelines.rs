//! Pipelines of ML Programs, the same on every engine.

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_coreml::{CoreMLModel, FeatureValue};

mod engines;

#[test]
fn a_pipeline_computes_what_its_parts_do_one_after_the_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/pipelines");
    // Made by `tools/pipelines.py` with NumPy.
    let file = folder.join("reference.safetensors");
    let reference = candle_core::safetensors::load(file, &Device::Cpu).expect("the reference");
    for choice in engines::engines() {
        let options = engines::options(choice);
        let model = CoreMLModel::builder(folder.join("two.mlpackage"))
            .engine(choice)
            .compute_units(options.compute_units)
            .compiled_models(options.cache.expect("a cache"))
            .load()
            .expect("it loads");
        let inputs = ["x", "scale"].map(|name| (name, FeatureValue::Tensor(reference[name].clone())));
        let outputs = model.predict_values(&inputs, None).expect("a prediction");
        for name in ["y", "sum"] {
            let FeatureValue::Tensor(found) = &outputs[name] else { panic!("{name} is no tensor") };
            let far = (found - &reference[name]).and_then(|d: Tensor| d.abs()?.max_all()?.to_scalar::<f32>());
            let far = far.expect("tensors of one shape");
            assert!(far < 1e-4, "{choice:?}: {name} is {far} away");
        }
    }
}
