//! Written packages read back equal; models from coremltools survive the round trip through the IR.

use coreml_format::description::{
    FeatureDescription, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint,
};
use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::model_types::Bytes;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, Opset, Program, TensorType, Value, ValueType,
};
use coreml_format::write::PackageWriter;
use proptest::prelude::*;

fn dtypes() -> impl Strategy<Value = DataType> {
    prop::sample::select(vec![
        DataType::F16,
        DataType::F32,
        DataType::I8,
        DataType::U8,
        DataType::I16,
        DataType::U16,
        DataType::I32,
        DataType::U1,
        DataType::U2,
        DataType::U3,
        DataType::U4,
        DataType::U6,
        DataType::I4,
    ])
}

/// A constant: type, shape, packed bytes with zero padding, and true to store it in the weight file.
fn constants() -> impl Strategy<Value = (DataType, Vec<usize>, Vec<u8>, bool)> {
    (dtypes(), prop::collection::vec(0usize..5, 0..4), any::<bool>()).prop_flat_map(|(dtype, shape, blob)| {
        let bits = shape.iter().product::<usize>() * dtype.bits().expect("numbers");
        prop::collection::vec(any::<u8>(), bits.div_ceil(8)).prop_map(move |mut bytes| {
            if let (Some(last), used @ 1..) = (bytes.last_mut(), bits % 8) {
                *last &= (1 << used) - 1;
            }
            (dtype, shape.clone(), bytes, blob)
        })
    })
}

fn description() -> ModelDescription {
    let array =
        |constraint| FeatureType::MultiArray { dtype: DataType::F16, shape: vec![1, 3], constraint, default: None };
    let feature =
        |name: &str, ty| FeatureDescription { name: name.into(), description: "text".into(), ty, optional: false };
    let ranges = ShapeConstraint::Ranges(vec![
        coreml_format::description::DimRange { min: 1, max: Some(1) },
        coreml_format::description::DimRange { min: 1, max: None },
    ]);
    let function = FunctionDescription {
        inputs: vec![feature("x", array(ranges)), feature("n", FeatureType::Int64)],
        outputs: vec![feature("y", array(ShapeConstraint::Enumerated(vec![vec![1, 3], vec![1, 4]])))],
        states: vec![feature("s", FeatureType::State { dtype: DataType::F16, shape: vec![2, 2] })],
        ..Default::default()
    };
    let mut description =
        ModelDescription { specification_version: 9, default_function: "main".into(), ..Default::default() };
    description.functions.insert("main".into(), function.clone());
    description.functions.insert("other".into(), function);
    description.metadata.user.insert("key".into(), "value".into());
    description
}

proptest! {
    #[test]
    fn packages_read_back_as_written(constants in prop::collection::vec(constants(), 0..6)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m.mlpackage");
        let mut writer = PackageWriter::create(&path).expect("a package");
        let mut block = Block::default();
        for (i, (dtype, shape, bytes, blob)) in constants.iter().enumerate() {
            let elements = shape.iter().product();
            let value = if *blob && elements > 0 {
                Value::blob(*dtype, shape, writer.blob(*dtype, elements, [bytes.as_slice()]).expect("written"))
            } else {
                Value::tensor(*dtype, shape, bytes.clone())
            };
            let ty = value.ty.clone();
            let name = format!("c{i}");
            block.operations.push(Operation {
                kind: "const".into(),
                name: name.clone(),
                inputs: Default::default(),
                outputs: vec![NamedType { name: name.clone(), ty }],
                blocks: Vec::new(),
                attributes: [("val".to_owned(), value)].into_iter().collect(),
            });
            block.outputs.push(name);
        }
        let unknown = TensorType { dtype: DataType::F16, shape: vec![Dim::Fixed(1), Dim::Unknown] };
        block.operations.push(Operation {
            kind: "concat".into(),
            name: "joined".into(),
            inputs: [("values".to_owned(), Argument::Many(vec![Binding::Name("x".into()), Binding::Value(Value::f16(0.5))]))]
                .into_iter()
                .collect(),
            outputs: vec![NamedType { name: "y".into(), ty: ValueType::Tensor(unknown.clone()) }],
            blocks: vec![Block::default()],
            attributes: Default::default(),
        });
        let function = Function {
            opset: Opset::Ios18,
            inputs: vec![NamedType { name: "x".into(), ty: ValueType::Tensor(unknown) }],
            block,
            attributes: Default::default(),
        };
        let mut program = Program::default();
        program.functions.insert("main".into(), function.clone());
        program.functions.insert("other".into(), function);
        writer.finish(&description(), &program).expect("finished");
        let model = Model::open(&path).expect("it opens");
        let read = model.body.program().expect("a program");
        prop_assert_eq!(read, &program);
        prop_assert_eq!(&model.description, &description());
        for (value, (dtype, _, bytes, _)) in
            read.functions["main"].block.operations.iter().filter_map(|o| o.attributes.get("val")).zip(&constants)
        {
            if let coreml_format::program::ValueData::Tensor(coreml_format::program::TensorData::Blob(at)) = &value.data {
                let blob = model.weights.resolve(at).expect("resolves");
                prop_assert_eq!(blob.dtype(), *dtype);
                prop_assert_eq!(&*blob, bytes.as_slice());
            }
        }
    }
}

#[test]
fn no_truncation_of_a_specification_panics_or_hangs() {
    let bytes = coreml_format::spec::encode(&description(), &Program::default());
    for n in 0..bytes.len() {
        // An error, or (at a field boundary) a model without a program: never a panic.
        assert!(coreml_format::spec::decode(&Bytes::copy_from_slice(&bytes[..n])).is_err());
    }
}

#[test]
fn folders_and_files_that_are_no_models_are_named_in_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = Model::open(folder.path()).expect_err("empty folder").to_string();
    assert!(message.contains("is not a Core ML model"), "{message}");
    let file = folder.path().join("x.mlmodel");
    std::fs::write(&file, b"hello").expect("written");
    assert!(Model::open(&file).expect_err("text").to_string().contains("x.mlmodel"));
    // Field 500 of the message: a neural network. It opens; `coreml-lower` decides if it can run.
    std::fs::write(&file, [0xa2, 0x1f, 0x00]).expect("written");
    assert_eq!(Model::open(&file).expect("it opens").body.name(), "neuralNetwork");
    assert!(Model::open(&folder.path().join("missing")).is_err());
}

#[test]
fn a_specification_is_that_of_the_file_and_compiled_models_have_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.mlmodel");
    std::fs::write(&file, [0xa2, 0x1f, 0x00]).expect("written");
    assert_eq!(Model::specification(&file).expect("bytes"), [0xa2, 0x1f, 0x00]);
    let package = folder.path().join("x.mlpackage");
    std::fs::create_dir_all(package.join("Data/com.apple.CoreML")).expect("folders");
    std::fs::write(package.join("Data/com.apple.CoreML/model.mlmodel"), [8, 4]).expect("written");
    assert_eq!(Model::specification(&package).expect("bytes"), [8, 4]);
    let compiled = folder.path().join("x.mlmodelc");
    std::fs::create_dir(&compiled).expect("a folder");
    std::fs::write(compiled.join("coremldata.bin"), b"").expect("written");
    let error = Model::specification(&compiled).expect_err("compiled").to_string();
    assert!(error.contains("x.mlmodelc") && error.contains("a compiled model"), "{error}");
    assert!(Model::specification(&folder.path().join("missing")).is_err());
    assert!(Model::specification(folder.path()).is_err());
}
