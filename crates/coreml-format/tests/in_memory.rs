//! An in-memory model equals the model on disk.

use coreml_format::blob::BlobError;
use coreml_format::description::ModelDescription;
use coreml_format::dtype::DataType;
use coreml_format::mil_text;
use coreml_format::model::{LoadError, Model};
use coreml_format::model_types::Bytes;
use coreml_format::program::{TensorData, Value, ValueData};
use coreml_format::weights::Weights;
use coreml_format::write::PackageWriter;

/// A package with one constant of 64 f16 values in its weight file.
fn package(folder: &std::path::Path) -> std::path::PathBuf {
    let path = folder.join("m.mlpackage");
    let mut writer = PackageWriter::create(&path).expect("a package");
    let elements: Vec<u8> = (0..128).collect();
    let at = writer.blob(DataType::F16, 64, [elements.as_slice()]).expect("written");
    let text = "program(1.3) { func main<ios18>(tensor<fp16, [64]> x) { tensor<fp16, [64]> w = const()[val = \
                tensor<fp16, [64]>(BLOBFILE(path = string(\"@model_path/w\"), offset = uint64(64)))]; tensor<fp16, [64]> y \
                = add(x = x, y = w); } -> (y); }";
    let mut program = mil_text::parse(text).expect("a program");
    program.functions["main"].block.operations[0].attributes["val"] = Value::blob(DataType::F16, &[64], at);
    let description = ModelDescription { specification_version: 9, ..Default::default() };
    writer.finish(&description, &program).expect("finished");
    path
}

/// Specification and weight file of a package, as bytes.
fn bytes(package: &std::path::Path) -> (Bytes, Bytes) {
    let read =
        |file: &str| Bytes::from(std::fs::read(package.join("Data/com.apple.CoreML").join(file)).expect("a file"));
    (read("model.mlmodel"), read("weights/weight.bin"))
}

fn constant(model: &Model) -> Result<Vec<u8>, BlobError> {
    let program = model.body.program().expect("a program");
    let value = &program.functions["main"].block.operations[0].attributes["val"];
    let ValueData::Tensor(TensorData::Blob(at)) = &value.data else { panic!("{value:?}") };
    model.weights.resolve(at).map(|blob| blob.to_vec())
}

#[test]
fn bytes_open_as_the_files_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = package(folder.path());
    let (specification, weights) = bytes(&path);
    let on_disk = Model::open(&path).expect("it opens");
    let files = [("weights/weight.bin".to_owned(), weights)];
    let in_memory = Model::from_bytes(specification, Weights::memory(files)).expect("it opens");
    assert_eq!(in_memory.description, on_disk.description);
    assert_eq!(in_memory.body, on_disk.body);
    assert_eq!(constant(&in_memory).expect("a blob"), constant(&on_disk).expect("a blob"));
}

#[test]
fn missing_and_cut_files_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (specification, weights) = bytes(&package(folder.path()));
    let open = |weights| Model::from_bytes(specification.clone(), weights).expect("it opens");
    let file = |name: &str, bytes: Bytes| Weights::memory([(name.to_owned(), bytes)]);
    let error = |weights| constant(&open(weights)).expect_err("no blob").to_string();
    let message = error(file("weights/other.bin", weights.clone()));
    assert!(message.contains("weights/weight.bin") && message.contains("weights/other.bin"), "{message}");
    for length in [0, 7, 64, 100, 128, weights.len() - 1] {
        let message = error(file("weights/weight.bin", weights.slice(..length.min(255))));
        assert!(message.contains("weights/weight.bin"), "{length}: {message}");
    }
    assert!(error(Weights::default()).contains("weight.bin"));
}

#[test]
fn limits_and_checks_are_those_of_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let (specification, _) = bytes(&package(folder.path()));
    let cut = specification.slice(..specification.len() - 1);
    let error = Model::from_bytes(cut, Weights::default()).expect_err("cut short");
    assert!(matches!(&error, LoadError::Spec { .. }) && error.to_string().contains("in memory"), "{error}");
    assert!(matches!(Model::from_bytes(Bytes::new(), Weights::default()), Err(LoadError::Spec { .. })));
    // A value used before its definition.
    let text =
        "program(1.3) { func main<ios18>(tensor<fp16, [64]> x) { tensor<fp16, [64]> y = relu(x = z); } -> (y); }";
    let unsound = mil_text::parse(text).expect("it parses");
    let unsound = coreml_format::spec::encode(&ModelDescription::default(), &unsound);
    assert!(matches!(Model::from_bytes(unsound, Weights::default()), Err(LoadError::Program { .. })));
}
