//! Models of public repositories: those with a reference agree with it, every other one inspects and refuses well.
//!
//! The files belong to their authors and are not part of the project: they lie beside it, in `../shared/zoo` or under
//! `CANDLE_COREML_SHARED`. Without them nothing is tested, which the test says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("CANDLE_COREML_SHARED").map_or(beside, PathBuf::from);
    Some(shared.join("zoo")).filter(|zoo| zoo.is_dir())
}

/// Runs the command; the error is its message.
fn command(arguments: &[String]) -> Result<String, String> {
    let run =
        Command::cargo_bin("candle-coreml").expect("the command is built").args(arguments).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match run.status.code() {
        Some(0) => Ok(text(&run.stdout)),
        Some(_) if !run.stderr.is_empty() => Err(text(&run.stderr)),
        code => panic!("{arguments:?}: {code:?}"),
    }
}

fn json(path: &Path) -> Option<Value> {
    std::fs::read_to_string(path).ok().map(|text| serde_json::from_str(&text).expect("JSON"))
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("numbers")
}

/// Difference of two values, relative to the largest number of the reference, or to one.
fn difference(found: &[f64], wanted: &[f64]) -> f64 {
    if found.len() != wanted.len() {
        return f64::INFINITY;
    }
    let scale = wanted.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    let far = |(f, w): (&f64, &f64)| if f.is_nan() && w.is_nan() { 0.0 } else { (f - w).abs() / scale };
    // NaN against a number is far away.
    found.iter().zip(wanted).map(far).fold(0.0, |most: f64, d| if d > most || d.is_nan() { d } else { most })
}

/// Numbers and labels of a value, flattened: dictionaries by their keys.
fn flat(value: &Value, into: &mut Vec<f64>, labels: &mut Vec<String>) {
    match value {
        Value::Object(all) => {
            let mut keys: Vec<&String> = all.keys().collect();
            keys.sort();
            for key in keys {
                labels.push(key.clone());
                flat(&all[key], into, labels);
            }
        }
        Value::Array(all) => all.iter().for_each(|v| flat(v, into, labels)),
        Value::String(text) => labels.push(text.clone()),
        other => into.push(other.as_f64().unwrap_or(f64::NAN)),
    }
}

/// Predicts a row; what does not agree.
fn check(folder: &Path, reference: &Value, row: &str) -> Result<(), String> {
    let row = folder.join(row);
    let made = tempfile::tempdir().expect("a folder");
    let text = |path: &Path| path.display().to_string();
    let model = text(&folder.join(reference["model"].as_str().expect("a model")));
    let mut arguments: Vec<String> = ["predict", &model, "--engine", "portable"].map(str::to_owned).to_vec();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    let (tensors, values) = (made.path().join("out.safetensors"), made.path().join("out.json"));
    add("--outputs", text(&tensors));
    add("--values-out", text(&values));
    if row.join("inputs.safetensors").exists() {
        add("--inputs", text(&row.join("inputs.safetensors")));
    }
    if row.join("values.json").exists() {
        add("--values", text(&row.join("values.json")));
    }
    let images = |side: &str| -> Vec<(String, String)> {
        let all = reference["images"][side].as_object().into_iter().flatten();
        all.map(|(name, file)| (name.clone(), file.as_str().expect("a file").to_owned())).collect()
    };
    for (name, file) in images("inputs") {
        add("--image", format!("{name}={}", text(&row.join(file))));
    }
    command(&arguments)?;
    let tolerance = reference["tolerance"].as_f64().expect("a tolerance");
    let found = match tensors.exists() {
        true => candle_core::safetensors::load(&tensors, &Device::Cpu).expect("tensors"),
        false => HashMap::new(),
    };
    if row.join("outputs.safetensors").exists() {
        let wanted = candle_core::safetensors::load(row.join("outputs.safetensors"), &Device::Cpu).expect("tensors");
        for (name, wanted) in wanted {
            let found = found.get(&name).ok_or_else(|| format!("no output `{name}`"))?;
            let far = difference(&numbers(found), &numbers(&wanted));
            if far.is_nan() || far > tolerance {
                return Err(format!("`{name}` is {far} away"));
            }
        }
    }
    for (name, file) in images("outputs") {
        let found = found.get(&name).ok_or_else(|| format!("no image `{name}`"))?;
        let wanted = image::open(row.join(file)).expect("an image").into_rgb8();
        let (width, height) = (wanted.width() as usize, wanted.height() as usize);
        let wanted = Tensor::from_vec(wanted.into_raw(), (height, width, 3), &Device::Cpu);
        let wanted = wanted.and_then(|t| t.permute((2, 0, 1))).expect("channels first");
        let both = (numbers(found), numbers(&wanted));
        let far = both.0.iter().zip(&both.1).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
        if both.0.len() != both.1.len() || far > tolerance {
            return Err(format!("`{name}` is {far} levels away"));
        }
    }
    let found = json(&values).unwrap_or(Value::Null);
    for (name, wanted) in json(&row.join("outputs.json")).as_ref().and_then(Value::as_object).into_iter().flatten() {
        let (mut a, mut b) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        flat(&found[name], &mut a.0, &mut a.1);
        flat(wanted, &mut b.0, &mut b.1);
        let far = difference(&a.0, &b.0);
        if a.1 != b.1 || far.is_nan() || far > tolerance {
            return Err(format!("`{name}`: found {}, wanted {wanted}", found[name]));
        }
    }
    Ok(())
}

/// A model without a reference: what is wrong with what the command says.
fn refused(path: &Path, reference: &Value) -> Result<(), String> {
    let text = path.display().to_string();
    let predict = command(&["predict", &text, "--engine", "portable"].map(str::to_owned));
    let Err(message) = predict else { return Err("it predicts".to_owned()) };
    if message.contains("panicked") || message.len() < 40 {
        return Err(message);
    }
    let inspected = command(&["inspect".to_owned(), text]);
    let why = reference["why"].as_str().expect("a reason");
    let stage = why.split_once("only Apple has (").and_then(|(_, rest)| rest.split_once(')')).map(|(stage, _)| stage);
    match (stage, inspected) {
        // The interface is shown, and the stage is named.
        (Some(stage), Ok(shown)) if message.contains(stage) && shown.contains(stage) => Ok(()),
        (Some(stage), shown) => Err(format!("expected {stage}: {message} {shown:?}")),
        (None, Ok(_)) => Ok(()),
        (None, Err(shown)) if shown.contains("panicked") => Err(shown),
        (None, Err(_)) => Ok(()),
    }
}

#[test]
fn public_models_agree_with_their_references_or_are_refused_well() {
    let Some(zoo) = zoo() else {
        eprintln!("SKIPPED: no public models in ../shared/zoo (CANDLE_COREML_SHARED)");
        return;
    };
    let (mut agree, mut refuse, mut failed) = (0, 0, Vec::new());
    let mut folders: Vec<PathBuf> = std::fs::read_dir(zoo).expect("models").flatten().map(|f| f.path()).collect();
    folders.sort();
    for folder in folders {
        let Some(reference) = json(&folder.join("reference.json")) else { continue };
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        if reference["oracle"].is_null() {
            let path = folder.join(reference["model"].as_str().expect("a model"));
            match refused(&path, &reference) {
                Ok(()) => refuse += 1,
                Err(e) => failed.push(format!("{name}: {e}")),
            }
            continue;
        }
        let rows = reference["rows"].as_array().expect("rows").iter();
        let wrong: Vec<String> = rows
            .filter_map(|row| {
                let row = row.as_str().expect("a row");
                check(&folder, &reference, row).err().map(|e| format!("{name} {row}: {e}"))
            })
            .collect();
        if wrong.is_empty() {
            agree += 1;
        }
        failed.extend(wrong);
    }
    println!("{agree} agree, {refuse} are refused");
    assert!(failed.is_empty(), "{agree} agree, {refuse} are refused; {} fail:\n{}", failed.len(), failed.join("\n"));
    assert!(agree > 0);
}
