//! Rewrites of models with constants that the portable engine computes.

use candle_core::{DType, Device, Tensor};
use candle_coreml::format::dtype::DataType;
use candle_coreml::format::model::Model;
use candle_coreml::format::program::{Argument, Binding, Block, Function, NamedType, Operation, Opset, Program, Value};
use candle_coreml::write::passes::{Half, Passes};
use candle_coreml::write::{self, FunctionBuilder, PackageBuilder, evaluate};
use candle_coreml::{CoreMLModel, Error};
use indexmap::IndexMap;
use std::path::Path;

/// Casts of three numbers to every element type, by hand.
#[test]
fn constants_of_every_element_type_are_computed() {
    let numbers = [-1.5f32, 2.0, 100.0];
    let bind = |value: Value| Argument::One(Binding::Value(value));
    let x = Value::tensor(DataType::F32, &[3], numbers.map(f32::to_le_bytes).concat());
    let wanted: IndexMap<String, Value> = [
        (DataType::F16, numbers.map(|v| half::f16::from_f32(v).to_le_bytes()).concat()),
        (DataType::F32, numbers.map(f32::to_le_bytes).concat()),
        (DataType::I32, [-1i32, 2, 100].map(i32::to_le_bytes).concat()),
        (DataType::I16, [-1i16, 2, 100].map(i16::to_le_bytes).concat()),
        (DataType::I8, [-1i8, 2, 100].map(i8::to_le_bytes).concat()),
        (DataType::Bool, vec![1, 1, 1]),
    ]
    .into_iter()
    .map(|(dtype, bytes)| (dtype.name().to_owned(), Value::tensor(dtype, &[3], bytes)))
    .collect();
    let operations = wanted.iter().map(|(name, value)| Operation {
        kind: "cast".to_owned(),
        name: name.clone(),
        inputs: [("x".to_owned(), bind(x.clone())), ("dtype".to_owned(), bind(Value::string(name)))]
            .into_iter()
            .collect(),
        outputs: vec![NamedType { name: name.clone(), ty: value.ty.clone() }],
        blocks: Vec::new(),
        attributes: IndexMap::new(),
    });
    let block =
        Block { inputs: Vec::new(), operations: operations.collect(), outputs: wanted.keys().cloned().collect() };
    let program = |block| {
        let main = Function { opset: Opset::Ios17, inputs: Vec::new(), block, attributes: IndexMap::new() };
        Program { functions: [("main".to_owned(), main)].into_iter().collect(), ..Program::default() }
    };
    assert_eq!(evaluate(&program(block.clone())).expect("values"), wanted);
    // An operation that fails is an error that names it.
    let mut wrong = block;
    wrong.operations[0].kind = "reshape".to_owned();
    assert!(evaluate(&program(wrong)).expect_err("no shape").contains("reshape"));
    assert!(evaluate(&Program::default()).is_err());
}

/// ((x · Wᵀ + b) · s) / 2 with W = [[1, 2], [3, 4]], b = [½, −½] and s = [4, 1], in fp32: weights in the file, the scale
/// computed.
fn scaled_product(path: &Path) -> PackageBuilder {
    let mut package = PackageBuilder::create(path).expect("a package");
    let mut stored = |values: &[f32], shape: &[usize]| {
        let tensor = Tensor::from_slice(values, shape, &Device::Cpu).expect("a tensor");
        write::weight(&mut package, &tensor, DType::F32).expect("a weight")
    };
    let (w, b, s) = (stored(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), stored(&[0.5, -0.5], &[2]), stored(&[4.0, 1.0], &[2]));
    let mut f = FunctionBuilder::new(Opset::Ios17);
    let x = f.input("x", DataType::F32, [1, 2]).expect("an input");
    let mut constant = |name: &str, value: Value| f.constant(name, value).expect("a constant");
    let (w, b, s) = (constant("w", w), constant("b", b), constant("s", s));
    let y = f.op("linear").arg("x", &x).arg("weight", &w).done().expect("a product");
    let y = f.op("add").arg("x", &y).arg("y", &b).done().expect("a sum");
    let half = f.op("real_div").arg("x", &s).arg("y", 2.0).done().expect("a quotient");
    let y = f.op("mul").arg("x", &y).arg("y", &half).done().expect("a product");
    f.output("y", &y).expect("an output");
    package.add("main", f).expect("a function");
    package
}

/// The expected values are computed by hand: [5, 11] + [½, −½] = [5½, 10½], times [2, ½].
#[test]
fn a_finished_package_is_rewritten_with_what_is_in_its_weight_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let left = || std::fs::read_dir(folder.path()).expect("a folder").count();
    for (i, half) in [None, Some(Half::default())].into_iter().enumerate() {
        let path = folder.path().join(format!("{i}.mlpackage"));
        let passes = Passes { half, ..Passes::usual() };
        let report = write::finish_optimized(scaled_product(&path), &passes).expect("a package");
        assert_eq!((report.folded, report.fused, report.halved), (1, 2, i));
        assert_eq!(left(), i + 1, "nothing else is left");
        let model = Model::open(&path).expect("a model");
        let main = &model.body.program().expect("a program").functions["main"];
        let kinds = main.block.operations.iter().map(|op| op.kind.as_str()).filter(|kind| *kind != "const");
        assert_eq!(kinds.collect::<Vec<_>>(), [&["linear"][..], &["cast", "linear", "cast"]][i]);
        let model = CoreMLModel::builder(&path).load().expect("it loads");
        let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).expect("a tensor");
        let y = model.forward_all(&[&x]).expect("a result")["y"].to_vec2::<f32>().expect("numbers");
        assert_eq!(y, [[11.0, 5.25]]);
    }
    // What fails leaves nothing, and names the path that was asked for.
    let path = folder.path().join("wrong.mlpackage");
    let passes = Passes { half: Some(Half { keep: vec!["none".to_owned()], ..Half::default() }), ..Passes::usual() };
    let error = write::finish_optimized(scaled_product(&path), &passes).expect_err("no such operation");
    assert!(matches!(error, Error::Edit(_)), "{error:?}");
    assert!(error.to_string().contains("wrong.mlpackage") && error.to_string().contains("`none`"), "{error}");
    assert_eq!(left(), 2);
    // Without rewrites the package is as it was built.
    let report = write::finish_optimized(scaled_product(&path), &Passes::default()).expect("a package");
    assert_eq!((report, left()), (write::passes::Report::default(), 3));
}
