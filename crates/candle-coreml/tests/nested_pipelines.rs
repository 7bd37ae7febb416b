//! Pipelines of unlike parts: nested ones with a state, detectors, tables (`tools/nested_pipelines.py`).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::{CoreMLModel, DictionaryKey, EngineChoice, FeatureRow, FeatureValue};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/nested")
}

fn rows(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("references.json")).expect("references");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[name].as_array().expect("rows").clone()
}

fn load(file: &str) -> CoreMLModel {
    CoreMLModel::builder(folder().join(file)).engine(EngineChoice::Portable).load().expect("it loads")
}

fn floats(value: &Value) -> Vec<f64> {
    let number = |v: &Value| match v {
        Value::Array(all) => all.iter().map(|v| v.as_f64().expect("a number")).collect(),
        v => vec![v.as_f64().expect("a number")],
    };
    match value {
        Value::Array(all) => all.iter().flat_map(number).collect(),
        other => number(other),
    }
}

fn numbers(value: &FeatureValue) -> Vec<f64> {
    let tensor = value.numbers_as_tensor().expect("numbers").expect("numbers");
    tensor.to_dtype(DType::F64).expect("doubles").flatten_all().expect("a row").to_vec1().expect("numbers")
}

fn near(found: &[f64], wanted: &[f64], tolerance: f64) -> bool {
    let close = |(f, w): (&f64, &f64)| (f - w).abs() <= tolerance * w.abs().max(1.0);
    found.len() == wanted.len() && found.iter().zip(wanted).all(close)
}

#[test]
fn a_state_deep_in_a_pipeline_lives_from_prediction_to_prediction() {
    let model = load("nested.mlmodel");
    assert!(model.is_stateful());
    let rows = rows("nested");
    // A fresh state begins anew.
    for _ in 0..2 {
        let mut state = model.make_state().expect("a state");
        for row in &rows {
            let raw = Tensor::new(floats(&row["raw"]), &Device::Cpu).expect("a tensor");
            let outputs = model.predict(&[("raw", raw)], Some(&mut state)).expect("a prediction");
            // The state is of fp16: one unit in its last place.
            assert!(near(&numbers(&outputs["totals"]), &floats(&row["totals"]), 1e-3), "{outputs:?}");
            assert!(near(&numbers(&outputs["score"]), &floats(&row["score"]), 1e-9), "{outputs:?}");
        }
    }
    let row: FeatureRow =
        vec![("raw".to_owned(), Tensor::zeros(4, DType::F64, &Device::Cpu).expect("a tensor").into())];
    let error = model.predict_batch(&[row]).expect_err("rows would depend on each other").to_string();
    assert!(error.contains("states"), "{error}");
}

#[test]
fn a_detector_takes_thresholds_or_has_its_own() {
    for name in ["detector", "detector_any"] {
        let model = load(&format!("{name}.mlpackage"));
        for (i, row) in rows(name).iter().enumerate() {
            let pixels = Tensor::from_vec(floats(&row["pixels"]), (1, 3, 32, 32), &Device::Cpu).expect("an image");
            let mut inputs = vec![("image", FeatureValue::Tensor(pixels))];
            for (threshold, value) in row["thresholds"].as_object().expect("thresholds") {
                inputs.push((threshold.as_str(), FeatureValue::Double(value.as_f64().expect("a number"))));
            }
            let outputs = model.predict_values(&inputs, None).expect("a prediction");
            let count = row["confidence"].as_array().expect("boxes").len();
            for (output, width) in [("confidence", 3), ("coordinates", 4)] {
                let found = &outputs[output];
                assert_eq!(found.tensor().expect("a tensor").dims(), [count, width], "{name} {i}: {output}");
                assert!(near(&numbers(found), &floats(&row[output]), 1e-5), "{name} {i}: {output}");
            }
        }
        let wrong = [("iouThreshold", FeatureValue::String("0.5".to_owned()))];
        assert!(model.predict_values(&wrong, None).is_err());
    }
}

fn row_of(case: &Value) -> FeatureRow {
    let value = |v: &Value| match v {
        Value::String(text) => FeatureValue::String(text.clone()),
        Value::Number(n) if n.is_i64() => FeatureValue::Int64(n.as_i64().expect("an integer")),
        v => FeatureValue::Double(v.as_f64().expect("a number")),
    };
    case["inputs"].as_object().expect("inputs").iter().map(|(name, v)| (name.clone(), value(v))).collect()
}

fn agrees(outputs: &candle_coreml::RowOutputs, case: &Value) -> bool {
    let FeatureValue::String(label) = &outputs["label"] else { panic!("{:?}", outputs["label"]) };
    let FeatureValue::Dictionary(chance) = &outputs["chance"] else { panic!("{:?}", outputs["chance"]) };
    let of = |key: &DictionaryKey| match key {
        DictionaryKey::String(text) => case["chance"][text].as_f64().expect("a chance"),
        DictionaryKey::Int(n) => panic!("{n}"),
    };
    case["label"] == label.as_str() && chance.len() == 2 && chance.iter().all(|(k, v)| (v - of(k)).abs() < 1e-12)
}

#[test]
fn a_table_of_categories_and_numbers_is_classified_row_by_row_and_at_once() {
    let model = load("table.mlmodel");
    let cases = rows("table");
    let all: Vec<FeatureRow> = cases.iter().map(row_of).collect();
    for (row, case) in all.iter().zip(&cases) {
        let named: Vec<(&str, FeatureValue)> = row.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let outputs = model.predict_values(&named, None).expect("a prediction");
        assert!(agrees(&outputs, case), "{outputs:?} is not {case}");
    }
    // Many more rows than a block has, on all cores.
    let many: Vec<FeatureRow> = all.iter().cycle().take(1003).cloned().collect();
    let outputs = model.predict_batch(&many).expect("predictions");
    assert_eq!(outputs.len(), many.len());
    for (outputs, case) in outputs.iter().zip(cases.iter().cycle()) {
        assert!(agrees(outputs, case), "{outputs:?} is not {case}");
    }
}

#[test]
fn the_first_row_that_fails_is_named() {
    let model = load("table.mlmodel");
    let good = row_of(&rows("table")[0]);
    let reversed: FeatureRow = good.iter().rev().cloned().collect();
    let mut many = vec![good.clone(); 700];
    many[300] = reversed;
    // Rows may list their inputs in any order.
    assert_eq!(model.predict_batch(&many).expect("predictions").len(), 700);
    many[650].retain(|(name, _)| name != "price");
    many[651][0].0 = "prize".to_owned();
    let error = model.predict_batch(&many).expect_err("a row without its price");
    let text = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(matches!(error, candle_coreml::Error::Row { row: 650, .. }) && text.contains("price"), "{text}");
}
