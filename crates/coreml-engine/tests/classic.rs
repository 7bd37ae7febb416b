//! Classic models against scikit-learn and NumPy (`tools/classic_cases.py`), and against public models with references where
//! they lie beside this checkout.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use coreml_engine::{DictionaryKey, Executable, FeatureValue, Options};
use coreml_format::description::FeatureType;
use coreml_format::model::Model;
use serde_json::{Map, Value};

/// Largest difference relative to the largest number of an output, or to one.
const TOLERANCE: f64 = 1e-9;

/// Types of stages that this test leaves to others.
const ELSEWHERE: [&str; 1] = ["neural"];

fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().expect("a number"),
        other => other.as_f64().expect("a number"),
    }
}

/// A value as the described feature takes it.
fn feature(value: &Value, ty: &FeatureType) -> FeatureValue {
    match (value, ty) {
        (Value::String(text), FeatureType::String) => text.as_str().into(),
        (Value::Array(all), _) => {
            let all: Vec<f64> = all.iter().map(number).collect();
            let length = all.len();
            Tensor::from_vec(all, length, &Device::Cpu).expect("a tensor").into()
        }
        (Value::Object(entries), FeatureType::Dictionary { int_keys }) => {
            let key = |k: &String| match int_keys {
                true => DictionaryKey::Int(k.parse().expect("an integer")),
                false => DictionaryKey::String(k.clone()),
            };
            FeatureValue::Dictionary(entries.iter().map(|(k, v)| (key(k), number(v))).collect())
        }
        (value, FeatureType::Int64) => value.as_i64().expect("an integer").into(),
        (value, _) => number(value).into(),
    }
}

fn load(path: &Path) -> Result<(Model, Executable), String> {
    let model = Model::open(path).map_err(|e| e.to_string())?;
    let program = coreml_lower::lower(&model).map_err(|e| e.to_string())?.into_owned();
    let options = Options { lowered: true, ..Options::default() };
    let function = model.description.default_function.clone();
    let executable = Executable::load(&program, &model.weights, &function, &options);
    let executable = executable.map_err(|e| format!("{e}: {:?}", std::error::Error::source(&e)))?;
    Ok((model, executable))
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("numbers")
}

fn near(found: &[f64], wanted: &[f64], tolerance: f64) -> bool {
    let scale = wanted.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| (f - w).abs() <= tolerance * scale)
}

fn agrees(found: &FeatureValue, wanted: &Value, tolerance: f64) -> bool {
    match (found, wanted) {
        (FeatureValue::String(found), Value::String(wanted)) => found == wanted,
        (FeatureValue::Tensor(t), Value::Array(all)) => {
            near(&numbers(t), &all.iter().map(number).collect::<Vec<_>>(), tolerance)
        }
        (FeatureValue::Tensor(t), wanted) if wanted.is_i64() && t.dtype() == DType::I64 => {
            t.flatten_all().and_then(|t| t.to_vec1::<i64>()).is_ok_and(|all| all == [wanted.as_i64().unwrap_or(0)])
        }
        (FeatureValue::Tensor(t), wanted) => near(&numbers(t), &[number(wanted)], tolerance),
        (FeatureValue::Dictionary(entries), Value::Object(wanted)) => {
            let text = |key: &DictionaryKey| match key {
                DictionaryKey::Int(n) => n.to_string(),
                DictionaryKey::String(text) => text.clone(),
            };
            let found: HashMap<String, f64> = entries.iter().map(|(k, v)| (text(k), *v)).collect();
            let same = |(k, w): (&String, &Value)| found.get(k).is_some_and(|f| near(&[*f], &[number(w)], tolerance));
            entries.len() == wanted.len() && wanted.iter().all(same)
        }
        _ => false,
    }
}

/// Predicts one row and tells what does not agree.
fn check(
    (model, executable): &(Model, Executable),
    inputs: &Map<String, Value>,
    tensors: &[(String, Tensor)],
    outputs: &Map<String, Value>,
    tolerance: f64,
) -> Vec<String> {
    let described = model.description.function(None).expect("a function");
    let given = inputs.iter().map(|(name, value)| {
        let ty = &described.input(name).unwrap_or_else(|| panic!("no input {name}")).ty;
        (name.as_str(), feature(value, ty))
    });
    let given: Vec<_> = given.chain(tensors.iter().map(|(n, t)| (n.as_str(), t.into()))).collect();
    let found = match executable.predict(&given, None) {
        Ok(found) => found,
        Err(e) => return vec![format!("{e}: {:?}", std::error::Error::source(&e))],
    };
    let differs = |(name, wanted): (&String, &Value)| match found.get(name) {
        Some(found) if agrees(found, wanted, tolerance) => None,
        found => Some(format!("{name}: found {found:?}, wanted {wanted}")),
    };
    outputs.iter().filter_map(differs).collect()
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn models(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// A number of a JSON text to its last bit, which `serde_json` does not read without a feature of its own.
fn exact(text: &str, name: &str) -> Option<f64> {
    let (_, rest) = text.split_once(&format!("\"{name}\": "))?;
    rest.split([',', '\n', '}']).next()?.trim().parse().ok()
}

#[test]
fn classic_models_agree_with_scikit_learn_and_numpy() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/classic");
    let mut failed = Vec::new();
    let mut count = 0;
    for path in models(&folder).into_iter().filter(|p| p.extension().is_some_and(|e| e == "mlmodel")) {
        let loaded = match load(&path) {
            Ok(loaded) => loaded,
            Err(e) => {
                failed.push(format!("{}: {e}", path.display()));
                continue;
            }
        };
        for row in json(&path.with_extension("json")).as_array().expect("rows") {
            let side = |name: &str| row[name].as_object().expect("features");
            let found = check(&loaded, side("inputs"), &[], side("outputs"), TOLERANCE);
            failed.extend(found.into_iter().map(|e| format!("{}: {e}", path.display())));
            count += 1;
        }
    }
    assert!(count > 50, "{count} rows");
    assert!(failed.is_empty(), "{} of {count}\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn public_models_agree_with_their_references() {
    let shared = std::env::var_os("CANDLE_COREML_SHARED").map_or_else(|| "../../../shared".into(), PathBuf::from);
    let (mut failed, mut models_run) = (Vec::new(), 0);
    for folder in models(&shared.join("zoo")).into_iter().filter(|f| f.join("reference.json").exists()) {
        let reference = json(&folder.join("reference.json"));
        let kind = format!("{} {}", reference["type"], reference["stages"]);
        let program = ELSEWHERE.iter().any(|part| kind.contains(part)) || kind.contains("mlProgram");
        if reference["oracle"].is_null() || program {
            continue;
        }
        let place = folder.display();
        let loaded = match load(&folder.join(reference["model"].as_str().expect("a name"))) {
            Ok(loaded) => loaded,
            Err(e) => {
                failed.push(format!("{place}: {e}"));
                continue;
            }
        };
        models_run += 1;
        for row in reference["rows"].as_array().expect("rows") {
            let row = folder.join(row.as_str().expect("a name"));
            let values = |name: &str| {
                let path = row.join(name);
                if path.exists() { json(&path).as_object().cloned().unwrap_or_default() } else { Map::new() }
            };
            let tensors = |name: &str| {
                let path = row.join(name);
                let all = if path.exists() {
                    candle_core::safetensors::load(path, &Device::Cpu).expect("tensors")
                } else {
                    HashMap::new()
                };
                all.into_iter().collect::<Vec<_>>()
            };
            let (mut inputs, mut given) = (values("values.json"), tensors("inputs.safetensors"));
            let text = std::fs::read_to_string(row.join("values.json")).unwrap_or_default();
            inputs.retain(|name, value| {
                let Some(x) = value.is_f64().then(|| exact(&text, name)).flatten() else { return true };
                given.push((name.clone(), Tensor::new(x, &Device::Cpu).expect("a number")));
                false
            });
            let mut outputs = values("outputs.json");
            outputs.extend(tensors("outputs.safetensors").into_iter().map(|(n, t)| (n, numbers(&t).into())));
            let tolerance = reference["tolerance"].as_f64().expect("a tolerance");
            let found = check(&loaded, &inputs, &given, &outputs, tolerance);
            failed.extend(found.into_iter().map(|e| format!("{}: {e}", row.display())));
        }
    }
    println!("{models_run} models");
    assert!(failed.is_empty(), "{}\n{}", failed.len(), failed.join("\n"));
}
