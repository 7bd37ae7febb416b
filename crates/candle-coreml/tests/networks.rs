//! Neural networks through the library: images, labels and vectors, against NumPy (`tools/network_models.py`).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::{CoreMLModel, DictionaryKey, EngineChoice, FeatureValue};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/neural_networks")
}

fn cases() -> serde_json::Value {
    let text = std::fs::read_to_string(folder().join("models.json")).expect("cases");
    serde_json::from_str(&text).expect("JSON")
}

fn numbers(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn load(name: &str) -> CoreMLModel {
    CoreMLModel::builder(folder().join(name)).engine(EngineChoice::Portable).load().expect("it loads")
}

fn near(found: &[f32], expected: &[f32]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 2e-5 * e.abs().max(1.0))
}

#[test]
fn a_classifier_scales_its_image_and_returns_label_and_probabilities() {
    let case = &cases()["classifier"];
    let shape: Vec<usize> = numbers(&case["shape"]).iter().map(|&n| n as usize).collect();
    let pixels = Tensor::from_vec(numbers(&case["pixels"]), shape, &Device::Cpu).expect("an image");
    let outputs = load("classifier.mlmodel").predict(&[("picture", pixels)], None).expect("a prediction");
    let FeatureValue::String(label) = &outputs["label"] else { panic!("{:?}", outputs["label"]) };
    assert_eq!(label, case["label"].as_str().expect("a label"));
    let FeatureValue::Dictionary(found) = &outputs["probabilities"] else { panic!("{:?}", outputs["probabilities"]) };
    let keys: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, ["cat", "dog"].map(|key| DictionaryKey::String(key.to_owned())));
    let found: Vec<f32> = found.iter().map(|(_, p)| *p as f32).collect();
    assert!(near(&found, &numbers(&case["probabilities"])), "{found:?}");
}

#[test]
fn a_network_of_vectors_takes_one_or_a_sequence_of_them() {
    let case = &cases()["sequences"];
    let (model, x, y) = (load("sequences.mlmodel"), numbers(&case["x"]), numbers(&case["y"]));
    let run = |x: &[f32], shape: &[usize]| -> candle_coreml::Result<Vec<f32>> {
        let x = Tensor::from_slice(x, shape, &Device::Cpu)?;
        let outputs = model.predict(&[("x", x)], None)?;
        let FeatureValue::Tensor(y) = &outputs["y"] else { panic!("{:?}", outputs["y"]) };
        Ok(y.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    };
    assert!(near(&run(&x[..3], &[3]).expect("one vector"), &y[..2]));
    // Its layers do not need the sequence axis, so the program has none: it runs for each vector.
    assert!(near(&run(&x, &[5, 1, 3]).expect("a sequence"), &y));
    assert!(near(&run(&x, &[1, 5, 3]).expect("a batch"), &y));
    for shape in [&[5, 3][..], &[5, 1, 1, 3], &[15]] {
        let error = run(&x, shape).expect_err("another shape").to_string();
        assert!(error.contains("`x`"), "{error}");
    }
}

/// Boxes are a sequence, images a batch of another length: `[sequence, batch, C, H, W]`.
#[test]
fn boxes_are_cut_out_of_a_batch_of_images() {
    let case = &cases()["boxes"];
    let model = load("boxes.mlmodel");
    let run = |boxes: std::ops::Range<usize>, images: std::ops::Range<usize>| -> candle_coreml::Result<FeatureValue> {
        let part = |name: &str, each: usize, of: &std::ops::Range<usize>, shape: &[usize]| {
            Tensor::from_slice(&numbers(&case[name])[of.start * each..of.end * each], shape, &Device::Cpu)
        };
        let inputs = [
            ("images", part("images", 40, &images, &[1, images.len(), 2, 5, 4])?),
            ("box", part("box", 4, &boxes, &[boxes.len(), 1, 4, 1, 1])?),
            ("index", part("index", 1, &boxes, &[boxes.len(), 1, 1, 1, 1])?),
        ];
        Ok(model.predict(&inputs, None)?["crops"].clone())
    };
    let expected = numbers(&case["crops"]);
    // All at once, then boxes of fewer images, then as before.
    for (boxes, images) in [(0..4, 0..3), (1..4, 0..2), (3..4, 0..2), (0..4, 0..3)] {
        let FeatureValue::Tensor(crops) = run(boxes.clone(), images.clone()).expect("crops") else {
            panic!("an array")
        };
        assert_eq!(crops.dims(), [boxes.len(), 1, 2, 3, 2]);
        let crops = crops.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("numbers");
        assert!(near(&crops, &expected[boxes.start * 12..boxes.end * 12]), "{boxes:?} of {images:?}");
    }
    // An index beyond the batch is an error, not another image.
    run(0..1, 0..2).expect_err("the third of two images");
}
