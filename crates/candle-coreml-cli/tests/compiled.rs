//! Compiled models through the command: values and images in, labels and dictionaries out.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::Device;

/// A classifier of 2 × 1 pixel images that adds a number to the difference of the channels.
const CLASSIFIER: &str = r#"program(1.3)
{
    func main<ios17>(tensor<fp32, [1, 3, 1, 2]> picture, tensor<fp32, [1]> bias) {
        tensor<fp32, [3]> sums = reduce_sum(x = picture, axes = tensor<int32, [3]>([0, 2, 3]), keep_dims = bool(false))[name = string("sums")];
        tensor<fp32, [3]> scores = add(x = sums, y = bias)[name = string("scores")];
        string label, dict<string, fp64> probabilities = classify(probabilities = scores, classes = list<string, 3>(("red", "green", "blue")))[name = string("classify")];
    } -> (label, probabilities, scores);
}
"#;

const METADATA: &str = r#"[{"specificationVersion": 8, "inputSchema": [
    {"name": "picture", "type": "Image", "colorspace": "RGB", "width": "2", "height": "1"},
    {"name": "bias", "type": "MultiArray", "dataType": "Float32", "shape": "[1]"}],
  "outputSchema": [{"name": "label", "type": "String"}, {"name": "probabilities", "type": "Dictionary", "keyType": "String"},
    {"name": "scores", "type": "MultiArray", "dataType": "Float32", "shape": "[3]"}]}]"#;

fn command() -> Command {
    Command::cargo_bin("candle-coreml").expect("the command is built")
}

fn write(folder: &Path) -> PathBuf {
    let model = folder.join("colours.mlmodelc");
    std::fs::create_dir(&model).expect("a folder");
    std::fs::write(model.join("model.mil"), CLASSIFIER).expect("written");
    std::fs::write(model.join("metadata.json"), METADATA).expect("written");
    model
}

#[test]
fn pictures_and_values_give_labels_and_dictionaries() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, path) = (write(folder.path()), |name: &str| folder.path().join(name));
    let pixels = image::RgbImage::from_raw(2, 1, vec![10, 200, 3, 20, 100, 4]).expect("two pixels");
    pixels.save(path("p.png")).expect("saved");
    std::fs::write(path("v.json"), r#"{"bias": [0.5]}"#).expect("written");
    let mut c = command();
    c.arg("predict").arg(&model).arg("--image").arg(format!("picture={}", path("p.png").display()));
    c.arg("--values").arg(path("v.json")).arg("--outputs").arg(path("out")).arg("--values-out").arg(path("out.json"));
    let out = c.output().expect("runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let values: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path("out.json")).expect("values")).expect("JSON");
    assert_eq!(values["label"], "green");
    assert_eq!(values["probabilities"], serde_json::json!({"red": 30.5, "green": 300.5, "blue": 7.5}));
    let scores = &candle_core::safetensors::load(path("out"), &Device::Cpu).expect("tensors")["scores"];
    assert_eq!(scores.to_vec1::<f32>().expect("a vector"), [30.5, 300.5, 7.5]);

    // An image of the wrong size, and invalid values.
    let large = image::RgbImage::new(3, 3);
    large.save(path("large.png")).expect("saved");
    let mut c = command();
    c.arg("predict").arg(&model).arg("--image").arg(format!("picture={}", path("large.png").display()));
    c.arg("--values").arg(path("v.json"));
    let out = c.output().expect("runs");
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(message.contains("picture") && message.contains("[1, 3, 3, 3]"), "{message}");
    // A value of the wrong type.
    std::fs::write(path("w.json"), r#"{"bias": "x"}"#).expect("written");
    let mut c = command();
    c.arg("predict").arg(&model).arg("--image").arg(format!("picture={}", path("p.png").display()));
    let out = c.arg("--values").arg(path("w.json")).output().expect("runs");
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(message.contains("bias") && message.contains("a string"), "{message}");
    for wrong in
        [r#"{"bias": ["x", 1]}"#, r#"{"bias": [[1], [2, 3]]}"#, r#"{"bias": [1, [2]]}"#, r#"{"bias": null}"#, "["]
    {
        std::fs::write(path("w.json"), wrong).expect("written");
        let out = command().arg("predict").arg(&model).arg("--values").arg(path("w.json")).output().expect("runs");
        let message = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{wrong}");
        assert!(message.contains("w.json"), "{message}");
    }
}

#[test]
fn scalars_of_the_program_come_back_as_one_element() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, path) = (folder.path().join("sum.mlmodelc"), |name: &str| folder.path().join(name));
    std::fs::create_dir(&model).expect("a folder");
    let text = "program(1.3) { func main<ios17>(tensor<fp32, [2]> x) { fp32 y = reduce_sum(x = x, keep_dims = bool(false)); } -> (y); }";
    std::fs::write(model.join("model.mil"), text).expect("written");
    std::fs::write(path("v.json"), r#"{"x": [1.5, 2]}"#).expect("written");
    let mut c = command();
    c.arg("predict").arg(&model).arg("--values").arg(path("v.json")).arg("--outputs").arg(path("out"));
    let out = c.output().expect("runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let y = &candle_core::safetensors::load(path("out"), &Device::Cpu).expect("tensors")["y"];
    assert_eq!(y.to_vec1::<f32>().expect("a vector"), [3.5]);
}

#[test]
fn a_broken_text_is_named_with_line_and_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = write(folder.path());
    std::fs::write(model.join("model.mil"), CLASSIFIER.replace("reduce_sum(x = picture,", "reduce_sum(x = picture;"))
        .expect("written");
    let out = command().arg("inspect").arg(&model).output().expect("runs");
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(message.contains("model.mil") && message.contains("line 4, column 56"), "{message}");
}

#[test]
fn any_model_prints_as_text_that_is_a_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = write(folder.path());
    let print = |model: &Path| {
        let out = command().arg("inspect").arg("--mil").arg(model).output().expect("runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let text = print(&model);
    std::fs::write(model.join("model.mil"), &text).expect("written");
    assert_eq!(print(&model), text);
}

/// Inputs of the shipped encoder, as a file of tensors.
fn sentence(path: &Path) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-intent");
    let all = candle_core::safetensors::load(models.join("reference.safetensors"), &Device::Cpu).expect("a reference");
    let names = ["input_ids", "attention_mask"];
    let inputs = names.map(|n| {
        let t = all[&format!("four.{n}")].to_dtype(candle_core::DType::F32).expect("numbers");
        (n.to_owned(), t)
    });
    candle_core::safetensors::save(&inputs.into_iter().collect(), path).expect("written");
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-intent/intent.mlpackage")
}

fn predict(model: &Path, inputs: &Path, to: &Path) -> Vec<u8> {
    let mut c = command();
    let out = c.arg("predict").arg(model).arg("--inputs").arg(inputs).arg("--outputs").arg(to).output().expect("runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::read(to).expect("outputs")
}

#[test]
fn a_package_its_compiled_form_and_the_package_of_that_predict_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (inputs, out) = (path("in.safetensors"), path("out.safetensors"));
    sentence(&inputs);
    let compile = |from: &Path, to: &Path| {
        let out = command().arg("compile").arg(from).arg("-o").arg(to).output().expect("runs");
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned())
    };
    let (compiled, package) = (path("intent.mlmodelc"), path("again.mlpackage"));
    assert_eq!(compile(&shipped(), &compiled), (true, compiled.display().to_string()));
    assert_eq!(compile(&compiled, &package), (true, package.display().to_string()));
    let first = predict(&shipped(), &inputs, &out);
    assert!(first == predict(&compiled, &inputs, &out) && first == predict(&package, &inputs, &out));
    let (done, text) = compile(&shipped(), &compiled);
    assert!(!done && text.contains("one that exists"), "{text}");
    // Without a name it lies beside the model.
    let out = command().arg("compile").arg(&package).output().expect("runs");
    assert!(out.status.success() && path("again.mlmodelc").join("coremldata.bin").is_file());
}

#[test]
fn bits_go_to_the_layers_that_need_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    sentence(&path("in.safetensors"));
    let compress = |to: &str, more: &[&str]| {
        let mut c = command();
        c.arg("compress").arg(shipped()).arg("--out").arg(path(to)).args(more);
        let out = c.output().expect("runs");
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    let data = path("in.safetensors");
    let data = data.to_string_lossy();
    let average = ["--average-bits", "4.5", "--candidates", "2,4,6", "--data", &data];
    let (done, text) = compress("a.mlpackage", &[&average[..], &["--json"]].concat());
    assert!(done, "{text}");
    let line = text.lines().find(|l| l.starts_with('{')).expect("a report");
    let report: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let layers = report["layers"].as_array().expect("layers");
    let (mut bytes, mut elements, mut bits) = (0.0, 0.0, std::collections::BTreeSet::new());
    for layer in layers {
        bytes += layer["after"].as_f64().expect("bytes");
        let shape = layer["shape"].as_array().expect("a shape");
        elements += shape.iter().map(|n| n.as_f64().expect("an extent")).product::<f64>();
        bits.insert(layer["scheme"]["palette"]["bits"].as_u64().expect("bits"));
    }
    assert!(bytes * 8.0 <= elements * 4.5, "{bytes} bytes for {elements}");
    assert!(bits.len() > 1, "{bits:?}");
    assert_eq!(report["sensitivity"].as_array().map(Vec::len), Some(layers.len()));
    // Measured bits lose less than the same bits everywhere.
    assert!(compress("b.mlpackage", &["--bits", "4"]).0);
    let tensors = |model: &str| {
        let file = path("out.safetensors");
        let model = if model.is_empty() { shipped() } else { path(model) };
        predict(&model, Path::new(&*data), &file);
        let all = candle_core::safetensors::load(&file, &Device::Cpu).expect("tensors");
        let mut names: Vec<_> = all.keys().cloned().collect();
        names.sort();
        let flat = |n: &String| all[n].to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>();
        names.iter().flat_map(|n| flat(n).expect("numbers")).collect::<Vec<f32>>()
    };
    let wanted = tensors("");
    let off = |model: &str| tensors(model).iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    assert!(off("a.mlpackage") < off("b.mlpackage"));
    let (done, text) = compress("c.mlpackage", &["--average-bits", "1", "--data", &data]);
    assert!(!done && text.contains("the smallest of --candidates take"), "{text}");
    assert!(!path("c.mlpackage").exists());
}
