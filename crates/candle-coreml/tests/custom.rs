//! Layers and models of classes that the program supplies, against NumPy (`tools/custom_models.py`).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::custom::{CustomFailure, CustomLayer, CustomModel, CustomParameter, CustomSource, Extents};
use candle_coreml::{CoreMLModel, CoreMLModelBuilder, DictionaryKey, EngineChoice, ErrorKind, FeatureValue};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/custom")
}

fn cases(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("cases.json")).expect("cases");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[name].as_array().expect("rows").clone()
}

fn builder(name: &str) -> CoreMLModelBuilder {
    CoreMLModel::builder(folder().join(format!("{name}.mlmodel"))).engine(EngineChoice::Portable)
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn tensor(value: &Value) -> Tensor {
    let shape: Vec<usize> = floats(&value["shape"]).iter().map(|&n| n as usize).collect();
    Tensor::from_vec(floats(&value["data"]), shape, &Device::Cpu).expect("a tensor")
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).expect("doubles").flatten_all().expect("a row").to_vec1().expect("numbers")
}

fn near(found: &[f64], wanted: &[f64], tolerance: f64) -> bool {
    let close = |(f, w): (&f64, &f64)| (f - w).abs() <= tolerance * w.abs().max(1.0);
    found.len() == wanted.len() && found.iter().zip(wanted).all(close)
}

/// scale · (first(c) · x + second(c) · z) + offset, and the means of its rows.
struct Mix {
    scale: f64,
    offset: f64,
    weights: [Tensor; 2],
}

impl Mix {
    fn new(file: &CustomSource) -> Result<Self, CustomFailure> {
        assert_eq!((file.class_name.as_str(), file.description.as_str()), ("Mix", "two blobs, mixed by channel"));
        assert_eq!(file.text("means")?, "rows");
        assert_eq!(file.parameters["keep"], CustomParameter::Bool(true));
        assert_eq!(file.weights.iter().map(Tensor::dtype).collect::<Vec<_>>(), [DType::F32, DType::F16]);
        assert!(file.number("means").is_err() && file.number("none").is_err() && file.text("scale").is_err());
        assert!(file.weights_as(0, &[4]).is_err() && file.weights_as(2, &[3]).is_err());
        let weights = [file.weights_as(0, &[3, 1, 1])?, file.weights_as(1, &[3, 1, 1])?];
        Ok(Self { scale: file.number("scale")?, offset: file.number("offset")?, weights })
    }
}

impl CustomLayer for Mix {
    fn output_shapes(&self, inputs: &[Extents]) -> Result<Vec<Extents>, CustomFailure> {
        let [x, z] = inputs else { return Err(format!("expected two blobs, found {}", inputs.len()).into()) };
        if x != z || x.len() != 5 || x[2] != Some(3) {
            return Err(format!("expected two blobs of three channels, found {x:?} and {z:?}").into());
        }
        let mut means = x.clone();
        means[4] = Some(1);
        Ok(vec![x.clone(), means])
    }

    fn evaluate(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, CustomFailure> {
        let [first, second] = &self.weights;
        let mixed = inputs[0].broadcast_mul(first)?.add(&inputs[1].broadcast_mul(second)?)?;
        let mixed = mixed.affine(self.scale, self.offset)?;
        // Another element type than F32 is converted.
        let means = mixed.mean_keepdim(4)?.to_dtype(DType::F64)?;
        Ok(vec![mixed, means])
    }
}

#[test]
fn a_layer_has_its_parameters_and_weights_from_the_file() {
    for name in ["layer", "flexible"] {
        let model = builder(name).custom_layer("Mix", Mix::new).load().expect("it loads");
        for case in cases(name) {
            // Twice: buffers of the first prediction are used again.
            for _ in 0..2 {
                let outputs = model.predict(&[("x", tensor(&case["x"]))], None).expect("a prediction");
                for output in ["y", "means"] {
                    let found = outputs[output].tensor().expect("a tensor");
                    let wanted = tensor(&case[output]);
                    assert_eq!(found.dims(), wanted.dims(), "{name} {output}");
                    assert!(near(&numbers(found), &numbers(&wanted), 1e-6), "{name} {output}: {found}");
                }
            }
        }
    }
}

/// A layer that does something wrong.
#[derive(Clone, Copy)]
enum Wrong {
    Shapes,
    Count,
    Fails,
    Shape,
}

impl CustomLayer for Wrong {
    fn output_shapes(&self, inputs: &[Extents]) -> Result<Vec<Extents>, CustomFailure> {
        match self {
            Self::Shapes => Err("it takes images only".into()),
            Self::Count => Ok(inputs[..1].to_vec()),
            _ => Ok(inputs.to_vec()),
        }
    }

    fn evaluate(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, CustomFailure> {
        match self {
            Self::Fails => Err("it has no camera".into()),
            _ => Ok(vec![inputs[0].clone(), inputs[1].narrow(4, 0, 2)?]),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn a_layer_without_its_class_is_refused_by_name() {
    for builder in [builder("layer"), builder("layer").custom_layer("Other", |_| Ok(Wrong::Fails))] {
        let error = builder.load().expect_err("no class");
        let text = chain(&error);
        assert!(["`mix`", "`Mix`", "custom_layer"].iter().all(|part| text.contains(part)), "{text}");
    }
    let error = builder("layer").custom_layer("Mix", |_| Err::<Wrong, _>("not today".into())).load();
    assert!(chain(&error.expect_err("not made")).contains("not today"));
}

#[test]
fn a_layer_that_breaks_its_word_is_an_error() {
    for (wrong, part) in [(Wrong::Shapes, "it takes images only"), (Wrong::Count, "has 1 outputs, the layer 2")] {
        let error = builder("layer").custom_layer("Mix", move |_| Ok(wrong)).load().expect_err("refused");
        assert!(chain(&error).contains(part), "{}", chain(&error));
    }
    for (wrong, part) in [(Wrong::Fails, "the class `Mix` failed: it has no camera"), (Wrong::Shape, "declared as")] {
        let model = builder("layer").custom_layer("Mix", move |_| Ok(wrong)).load().expect("it loads");
        let x = tensor(&cases("layer")[0]["x"]);
        let error = model.predict(&[("x", x)], None).expect_err("refused");
        assert!(chain(&error).contains(part), "{}", chain(&error));
    }
}

/// A word and the sum of numbers in every form.
struct Blend {
    factor: f64,
    table: Vec<u8>,
}

impl CustomModel for Blend {
    fn predict(&self, inputs: &[(&str, FeatureValue)]) -> Result<Vec<(String, FeatureValue)>, CustomFailure> {
        let (mut sum, mut text, mut scaled) = (0.0, String::new(), Vec::new());
        for (name, value) in inputs {
            match (*name, value) {
                ("number" | "more", FeatureValue::Double(x)) => sum += x,
                ("count", FeatureValue::Int64(n)) => sum += *n as f64,
                ("word", FeatureValue::String(word)) => text = word.clone(),
                ("weights", FeatureValue::Dictionary(entries)) => {
                    assert!(entries.contains(&(DictionaryKey::String("a".to_owned()), 0.5)));
                    sum += entries.iter().map(|(_, x)| x).sum::<f64>();
                    text += &format!(" of {}", entries.len());
                }
                ("array", FeatureValue::Tensor(t)) => {
                    let all = t.to_vec1::<f64>()?;
                    sum += all.iter().sum::<f64>();
                    scaled = all.iter().zip(&self.table).map(|(x, &t)| x * self.factor + f64::from(t)).collect();
                }
                other => return Err(format!("{other:?}").into()),
            }
        }
        let scaled = Tensor::from_vec(scaled, 3, &Device::Cpu)?;
        let sum = FeatureValue::Double(self.factor * sum);
        Ok(vec![
            ("text".to_owned(), FeatureValue::String(text)),
            ("scaled".to_owned(), scaled.into()),
            ("sum".to_owned(), sum),
        ])
    }
}

fn blend(file: &CustomSource) -> Result<Blend, CustomFailure> {
    let CustomParameter::Bytes(table) = &file.parameters["table"] else { return Err("no table".into()) };
    Ok(Blend { factor: file.number("factor")?, table: table.clone() })
}

fn given(row: &Value) -> Vec<(&str, FeatureValue)> {
    let value = |name: &str, value: &Value| match value {
        Value::Number(n) if name == "count" => FeatureValue::Int64(n.as_i64().expect("an integer")),
        Value::Number(n) => FeatureValue::Double(n.as_f64().expect("a number")),
        Value::String(text) => FeatureValue::String(text.clone()),
        Value::Array(_) => Tensor::new(floats(value), &Device::Cpu).expect("a tensor").into(),
        other => FeatureValue::Dictionary(
            other
                .as_object()
                .expect("a dictionary")
                .iter()
                .map(|(k, v)| (DictionaryKey::String(k.clone()), v.as_f64().expect("a number")))
                .collect(),
        ),
    };
    row.as_object().expect("a row").iter().map(|(name, v)| (name.as_str(), value(name, v))).collect()
}

#[test]
fn a_model_takes_and_returns_values_of_every_type() {
    for name in ["model", "pipeline"] {
        let model = builder(name).custom_model("Blend", blend).load().expect("it loads");
        for case in cases(name) {
            let outputs = model.predict_values(&given(&case["inputs"]), None).expect("a prediction");
            let FeatureValue::String(text) = &outputs["text"] else { panic!("{:?}", outputs["text"]) };
            assert_eq!(text, case["outputs"]["text"].as_str().expect("a text"));
            let found = |output: &str| numbers(outputs[output].tensor().expect("numbers"));
            assert!(near(&found("sum"), &[case["outputs"]["sum"].as_f64().expect("a sum")], 1e-12), "{outputs:?}");
            assert!(near(&found("scaled"), &floats(&case["outputs"]["scaled"]), 1e-12), "{outputs:?}");
        }
    }
}

/// A model that returns what it was told to.
struct Fixed(Vec<(String, FeatureValue)>);

impl CustomModel for Fixed {
    fn predict(&self, _: &[(&str, FeatureValue)]) -> Result<Vec<(String, FeatureValue)>, CustomFailure> {
        Ok(self.0.clone())
    }
}

#[test]
fn a_model_that_returns_something_else_is_an_error() {
    let error = builder("model").load().expect_err("no class");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(chain(&error).contains("`Blend`") && chain(&error).contains("custom_model"), "{}", chain(&error));
    let row = cases("model").remove(0);
    let text = || ("text".to_owned(), FeatureValue::String("a".to_owned()));
    let sum = || ("sum".to_owned(), FeatureValue::Double(1.0));
    let scaled = |n: usize| {
        let t = Tensor::zeros(n, DType::F64, &Device::Cpu).expect("a tensor");
        ("scaled".to_owned(), FeatureValue::Tensor(t))
    };
    for (outputs, part) in [
        (vec![text(), sum()], "it returns no `scaled`"),
        (
            vec![text(), sum(), scaled(3), ("more".to_owned(), FeatureValue::Double(0.0))],
            "`more`, which is not described",
        ),
        (vec![text(), sum(), scaled(4)], "`scaled`"),
        (vec![sum(), scaled(3), ("text".to_owned(), FeatureValue::Double(0.0))], "`text`"),
        (vec![text(), scaled(3), ("sum".to_owned(), FeatureValue::String("1".to_owned()))], "`sum`"),
    ] {
        let model =
            builder("model").custom_model("Blend", move |_| Ok(Fixed(outputs.clone()))).load().expect("it loads");
        let error = model.predict_values(&given(&row["inputs"]), None).expect_err("refused");
        assert!(chain(&error).contains("Blend") && chain(&error).contains(part), "{}", chain(&error));
    }
}
