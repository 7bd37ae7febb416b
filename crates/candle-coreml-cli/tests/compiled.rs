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
