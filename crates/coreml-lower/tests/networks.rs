//! Layers of neural networks agree with PyTorch and NumPy (`tools/network_cases.py`,
//! `tools/network_flow_cases.py`, `tools/network_suite_cases.py`).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use coreml_engine::executable::{Executable, Options};
use coreml_format::model::Model;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/neural_networks/");

/// What a network is, takes and returns.
#[derive(Default)]
struct Case {
    model: Vec<u8>,
    inputs: Vec<(String, Tensor)>,
    outputs: Vec<(String, Tensor)>,
}

fn cases(file: &str) -> BTreeMap<String, Case> {
    let mut all: BTreeMap<String, Case> = BTreeMap::new();
    for (name, tensor) in candle_core::safetensors::load(format!("{CASES}{file}"), &Device::Cpu).expect("the cases") {
        let mut parts = name.splitn(3, '/');
        let case = all.entry(parts.next().expect("a name").to_owned()).or_default();
        match (parts.next(), parts.next()) {
            (Some("in"), Some(name)) => case.inputs.push((name.to_owned(), tensor)),
            (Some("out"), Some(name)) => case.outputs.push((name.to_owned(), tensor)),
            _ => case.model = tensor.to_vec1().expect("the bytes of a model"),
        }
    }
    all
}

/// The extents that are not 1.
fn squeezed(tensor: &Tensor) -> Vec<usize> {
    tensor.dims().iter().copied().filter(|&n| n != 1).collect()
}

fn check(file: &Path, case: &Case) -> Result<(), String> {
    std::fs::write(file, &case.model).map_err(|e| e.to_string())?;
    let model = Model::open(file).map_err(|e| e.to_string())?;
    let program = coreml_lower::lower(&model).map_err(|e| e.to_string())?;
    let main = &model.description.default_function;
    let options = Options { lowered: true, ..Options::default() };
    let loaded = Executable::load(&program, &model.weights, main, &options).map_err(|e| e.to_string())?;
    let mut inputs: Vec<(&str, Tensor)> = Vec::new();
    for (name, tensor) in &case.inputs {
        let declared = loaded.inputs().iter().find(|i| i.name == *name).ok_or_else(|| format!("no input `{name}`"))?;
        let rank = declared.ty.tensor().map_or(0, |ty| ty.shape.len());
        // A vector that may be a sequence is `[1, 1, C, 1, 1]`.
        let ready = if rank == 5 && tensor.rank() == 1 { tensor.reshape((1, 1, (), 1, 1)) } else { Ok(tensor.clone()) };
        inputs.push((name, ready.map_err(|e| e.to_string())?));
    }
    let found = loaded.predict(&inputs, None).map_err(|e| e.to_string())?;
    for (name, wanted) in &case.outputs {
        let y = found.get(name).and_then(|y| y.tensor()).ok_or_else(|| format!("no `{name}`"))?;
        if squeezed(y) != squeezed(wanted) {
            return Err(format!("`{name}` is {:?} instead of {:?}", y.dims(), wanted.dims()));
        }
        let values = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let (y, wanted) = (values(y).map_err(|e| e.to_string())?, values(wanted).map_err(|e| e.to_string())?);
        let largest = wanted.iter().fold(1f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in y.iter().zip(&wanted).enumerate() {
            if (a - b).abs().partial_cmp(&(2e-5 * largest)).is_none_or(|o| o.is_gt()) {
                return Err(format!("`{name}` has {a} instead of {b} at {i}"));
            }
        }
    }
    Ok(())
}

fn agree(file: &str, least: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = cases(file);
    assert!(cases.len() > least, "{} cases", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(name, case)| {
            check(&folder.path().join("case.mlmodel"), case).err().map(|e| format!("{name}: {e}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn layers_agree_with_their_references() {
    agree("layers.safetensors", 100);
}

#[test]
fn recurrent_layers_branches_loops_volumes_and_stored_weights_agree() {
    agree("flow.safetensors", 60);
}

#[test]
fn layers_as_converters_write_them_agree() {
    agree("suite.safetensors", 16);
}
