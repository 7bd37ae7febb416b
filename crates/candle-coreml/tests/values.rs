//! Models that take and return values that are no tensors, through the library, against scikit-learn and NumPy
//! (`tools/value_cases.py`).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::description::FeatureType;
use candle_coreml::{CoreMLModel, DictionaryKey, EngineChoice, FeatureValue};
use serde_json::{Value, json};

/// Largest difference relative to the number, or to one: all is computed in f64, in another order.
const TOLERANCE: f64 = 1e-12;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/values")
}

fn load(name: &str) -> CoreMLModel {
    let path = folder().join(name).with_extension("mlmodel");
    CoreMLModel::builder(path).engine(EngineChoice::Portable).load().unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn flat(value: &Value, shape: &mut Vec<usize>, all: &mut Vec<f64>, depth: usize) {
    match value {
        Value::Array(items) => {
            if shape.len() == depth {
                shape.push(items.len());
            }
            items.iter().for_each(|item| flat(item, shape, all, depth + 1));
        }
        other => all.push(number(other)),
    }
}

fn tensor(value: &Value) -> Tensor {
    let (mut shape, mut all) = (Vec::new(), Vec::new());
    flat(value, &mut shape, &mut all, 0);
    Tensor::from_vec(all, shape, &Device::Cpu).expect("a tensor")
}

fn key(text: &str, int: bool) -> DictionaryKey {
    if int { DictionaryKey::Int(text.parse().expect("an integer")) } else { DictionaryKey::String(text.to_owned()) }
}

/// A value as the described feature takes it.
fn feature(value: &Value, ty: &FeatureType) -> FeatureValue {
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let int = |v: &Value| v.as_i64().expect("an integer");
    let items = || value.as_array().expect("a list").iter();
    match ty {
        FeatureType::String => text(value).into(),
        FeatureType::Int64 => int(value).into(),
        FeatureType::Double => number(value).into(),
        FeatureType::Sequence { ints: true } => items().map(int).collect::<Vec<_>>().into(),
        FeatureType::Sequence { ints: false } => items().map(text).collect::<Vec<_>>().into(),
        FeatureType::Dictionary { int_keys } => {
            let entries = value.as_object().expect("a dictionary").iter();
            entries.map(|(k, v)| (key(k, *int_keys), number(v))).collect::<Vec<_>>().into()
        }
        _ => tensor(value).into(),
    }
}

fn near(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() <= TOLERANCE * wanted.abs().max(1.0)
}

fn agrees(found: &FeatureValue, wanted: &Value) -> bool {
    match (found, wanted) {
        (FeatureValue::String(found), wanted) => wanted == found,
        (FeatureValue::Strings(found), wanted) => *wanted == json!(found),
        (FeatureValue::Dictionary(found), Value::Object(wanted)) => {
            let text = |k: &DictionaryKey| match k {
                DictionaryKey::Int(n) => n.to_string(),
                DictionaryKey::String(text) => text.clone(),
            };
            let same = |(k, x): &(DictionaryKey, f64)| wanted.get(&text(k)).is_some_and(|w| near(*x, number(w)));
            found.len() == wanted.len() && found.iter().all(same)
        }
        (FeatureValue::Tensor(found), wanted) => {
            let wanted = tensor(wanted);
            let numbers = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
            // A matrix without rows has no shape in JSON.
            let shapes = found.dims() == wanted.dims() || found.rank() <= 1 || wanted.elem_count() == 0;
            let (found, wanted) = (numbers(found).expect("numbers"), numbers(&wanted).expect("numbers"));
            shapes && found.len() == wanted.len() && found.iter().zip(&wanted).all(|(f, w)| near(*f, *w))
        }
        _ => false,
    }
}

#[test]
fn models_agree_with_their_references_with_and_without_optional_inputs() {
    let mut count = 0;
    let mut failed = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(folder()).expect("models").flatten().map(|f| f.path()).collect();
    files.sort();
    for path in files.into_iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let model = load(&name);
        let rows: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("a file")).expect("JSON");
        for (i, row) in rows.as_array().expect("rows").iter().enumerate() {
            let described = model.function_description();
            let given: Vec<(&str, FeatureValue)> = row["inputs"]
                .as_object()
                .expect("inputs")
                .iter()
                .map(|(name, v)| (name.as_str(), feature(v, &described.input(name).expect("an input").ty)))
                .collect();
            let found = model.predict_values(&given, None).unwrap_or_else(|e| panic!("{name} {i}: {e}"));
            for (output, wanted) in row["outputs"].as_object().expect("outputs") {
                if !agrees(&found[output], wanted) {
                    failed.push(format!("{name} {i}: {output} is {:?}, not {wanted}", found[output]));
                }
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count} rows");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn refused(model: &str, inputs: &[(&str, FeatureValue)]) -> String {
    let error = load(model).predict_values(inputs, None).expect_err("refused");
    error.to_string()
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let x = |all: &[f64]| FeatureValue::Tensor(Tensor::new(all, &Device::Cpu).expect("a tensor"));
    let matrix =
        |n: usize, m: usize| FeatureValue::Tensor(Tensor::zeros((n, m), DType::F64, &Device::Cpu).expect("a tensor"));
    for (model, inputs, part) in [
        ("neighbours", vec![("x", x(&[1.0, f64::NAN, 0.0]))], "not a number"),
        ("neighbours", vec![("x", x(&[1.0]))], "`x`"),
        ("probit", vec![("x", x(&[0.0, 1.5, 0.0]))], "feature 1 has no weight for 1.5"),
        ("probit", vec![("x", x(&[0.0, 0.0, 4.0]))], "feature 2 has no weight for 4"),
        ("boxes", vec![("raw_scores", matrix(2, 3)), ("raw_boxes", matrix(3, 4))], "coordinates [3, 4]"),
        (
            "boxes",
            vec![("raw_scores", matrix(2, 3)), ("raw_boxes", matrix(2, 4)), ("iou", 1.5.into())],
            "the threshold `iou` is 1.5",
        ),
        ("boxes", vec![("raw_scores", matrix(2, 3))], "`raw_boxes` is missing"),
        (
            "recommender",
            vec![("given", FeatureValue::Dictionary(vec![(DictionaryKey::Int(1), 1.0)]))],
            "a dictionary with strings as keys",
        ),
        (
            "recommender",
            vec![("given", FeatureValue::Dictionary(Vec::new())), ("count", (-1_i64).into())],
            "-1 as a number of recommendations",
        ),
    ] {
        let message = refused(model, &inputs);
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn what_tells_the_program_that_an_input_is_given_is_no_input() {
    let model = load("recommender");
    assert_eq!(model.input_names(), ["given", "count", "only", "without"]);
    let given = FeatureValue::Dictionary(Vec::new());
    let inputs = [("given", given), ("count_is_given", FeatureValue::Double(1.0))];
    let error = model.predict_values(&inputs, None).expect_err("no such input").to_string();
    assert!(error.contains("count_is_given"), "{error}");
}

#[test]
fn links_that_lead_nowhere_or_in_a_circle_are_refused() {
    let temporary = tempfile::tempdir().expect("a folder");
    let copied = |name: &str, to: &str| std::fs::copy(folder().join(name), temporary.path().join(to)).expect("copied");
    copied("link.mlmodel", "link.mlmodel");
    let open = || {
        let path = temporary.path().join("link.mlmodel");
        CoreMLModel::builder(path).engine(EngineChoice::Portable).load().map(drop).expect_err("refused").to_string()
    };
    let message = open();
    assert!(message.contains("`recommender.mlmodelc`") && message.contains("bundles"), "{message}");
    copied("link.mlmodel", "recommender.mlmodel");
    let message = open();
    assert!(message.contains("at most 8 links"), "{message}");
    copied("probit.mlmodel", "recommender.mlmodel");
    let message = open();
    assert!(message.contains("an input `given`"), "{message}");
}

#[test]
fn rows_of_a_batch_are_those_of_single_predictions_in_their_order() {
    let model = load("neighbours_weighted");
    let row = |i: usize| {
        let x: Vec<f64> = (0..3).map(|d| ((i * 7 + d * 3) % 11) as f64 / 5.0 - 1.0).collect();
        vec![("x".to_owned(), FeatureValue::Tensor(Tensor::from_vec(x, 3, &Device::Cpu).expect("a tensor")))]
    };
    let rows: Vec<_> = (0..100).map(row).collect();
    let shown = std::sync::atomic::AtomicUsize::new(0);
    let most = |done| _ = shown.fetch_max(done, std::sync::atomic::Ordering::Relaxed);
    let all = model.predict_batch_with(&rows, &most).expect("predictions");
    assert_eq!((all.len(), shown.into_inner()), (100, 100));
    for (row, found) in rows.iter().zip(&all) {
        let one = model.predict_values(&[("x", row[0].1.clone())], None).expect("a prediction");
        assert_eq!(format!("{one:?}"), format!("{found:?}"));
    }
    assert!(model.predict_batch(&[]).expect("no rows").is_empty());
    let mut rows = rows;
    rows[70][0].1 = "text".into();
    rows[33][0].1 = "text".into();
    let message = model.predict_batch(&rows).expect_err("a row that does not fit").to_string();
    assert!(message.starts_with("row 33: "), "{message}");
}
