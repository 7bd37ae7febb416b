//! Edits: what is written opens, verifies, and holds what it should; wrong requests are errors by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use coreml_format::dtype::DataType::{self, F16, F32, U2, U4};
use coreml_format::model::Model;
use coreml_format::program::{Opset, Value};
use coreml_write::builder::{FunctionBuilder, PackageBuilder, check};
use coreml_write::edit::{self, Changes, Constants, Form, Source, packed};
use safetensors::tensor::{TensorView, serialize};
use safetensors::{Dtype, SafeTensors};

#[path = "edit/batch.rs"]
mod batch;
#[path = "edit/compile.rs"]
mod compile;
#[path = "edit/passes.rs"]
mod passes;

/// `y = linear(x, w)`, w `[4, 8]` from a table of four numbers, plus a dense bias.
fn model(folder: &Path, name: &str, bias: f32) -> PathBuf {
    let path = folder.join(format!("{name}.mlpackage"));
    let mut package = PackageBuilder::create(&path).expect("a package");
    let indices: Vec<u8> = (0..32).map(|i| i % 4).collect();
    let table = [-1.0f32, 0.0, 0.5, 2.0];
    let indices = package.weight(U2, &[4, 8], [packed::pack_bits(2, &indices)]).expect("indices");
    let lut = package.weight(F16, &[1, 1, 4, 1], [packed::floats(F16, &table).expect("floats")]).expect("a table");
    let bias = packed::floats(F16, &[bias; 16]).expect("floats");
    let bias = package.weight(F16, &[16], [bias]).expect("a bias");
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let x = f.input("x", F16, [1, 8]).expect("an input");
    let w = f.op("constexpr_lut_to_dense").named("w").arg("indices", indices).arg("lut", lut).done().expect("a weight");
    let y = f.op("matmul").arg("x", &x).arg("y", &w).arg("transpose_y", true).done().expect("a product");
    let y = f.op("tile").arg("x", &y).arg("reps", [1, 4]).done().expect("tiled");
    let b = f.constant("b", bias).expect("a constant");
    let y = f.op("add").named("y").arg("x", &y).arg("y", &b).done().expect("a sum");
    f.output("y", &y).expect("an output");
    package.add("main", f).expect("a function");
    package.description.metadata.author = "somebody".to_owned();
    package.finish().expect("written");
    path
}

fn open(path: &Path) -> Model {
    let model = Model::open(path).unwrap_or_else(|e| panic!("{e}"));
    if let Some(program) = model.body.program() {
        let wrong = check(program);
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    model
}

fn decoded(model: &Model, function: &str, name: &str) -> Vec<f32> {
    let f = &edit::program(model).expect("a program").functions[function];
    Constants::of(&f.block, &model.weights).decode(name).expect("a weight").data
}

fn file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(.., d)| d.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((n, s, _), b)| (*n, TensorView::new(Dtype::F32, s.to_vec(), b).expect("a view")));
    serialize(views, None).expect("a file")
}

#[test]
fn weights_are_listed_and_extracted() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = open(&model(folder.path(), "a", 0.25));
    let list = edit::list(&model).expect("a list");
    let found: Vec<_> = list.iter().map(|w| (w.name.as_str(), w.form.as_str(), w.shape.as_slice(), w.bytes)).collect();
    assert_eq!(found, [("w", "lut_to_dense", [4usize, 8].as_slice(), 8 + 8), ("b", "dense", &[16], 32)]);
    let to = folder.path().join("w.safetensors");
    assert_eq!(edit::extract(&model, &to, Form::Decoded, &|_| true).expect("written"), 2);
    let bytes = std::fs::read(&to).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    let w = tensors.tensor("w").expect("w");
    assert_eq!((w.dtype(), w.shape()), (Dtype::F16, [4usize, 8].as_slice()));
    let numbers = packed::numbers(F16, w.data(), 32).expect("numbers");
    assert_eq!(&numbers[..5], [-1.0, 0.0, 0.5, 2.0, -1.0]);
    assert_eq!(edit::extract(&model, &to, Form::Stored, &|n| n == "w").expect("written"), 2);
    let bytes = std::fs::read(&to).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    assert_eq!(
        tensors.tensor("w.indices").expect("indices").data(),
        packed::pack_bits(2, &(0..32).map(|i| i % 4).collect::<Vec<_>>())
    );
}

#[test]
fn weights_are_replaced_and_the_rest_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = open(&model(folder.path(), "a", 0.25));
    // w + 2 · B·A with rank 1: B = (1, 0, 0, 0), A = (1, …, 1) adds 2 to the first row.
    let bytes = file(&[("w.lora_A", &[1, 8], &[1.0; 8]), ("w.lora_B", &[4, 1], &[1.0, 0.0, 0.0, 0.0])]);
    let to = folder.path().join("b.mlpackage");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    assert_eq!(edit::replace(&model, &tensors, 2.0, &to).expect("written"), 1);
    let new = open(&to);
    let w = decoded(&new, "main", "w");
    assert_eq!((&w[..5], &w[8..12]), ([1.0, 2.0, 2.5, 4.0, 1.0].as_slice(), [-1.0, 0.0, 0.5, 2.0].as_slice()));
    assert_eq!(decoded(&new, "main", "b"), [0.25; 16]);
    assert_eq!(new.description, model.description);
    for (tensors, part) in [
        (file(&[("v", &[1], &[0.0])]), "found v"),
        (file(&[("b", &[8], &[0.0; 8])]), "weight `b`: expected shape [16], found [8]"),
        (file(&[("b", &[16], &[f32::NAN; 16])]), "expected finite numbers, found NaN at 0"),
        (file(&[("b", &[16], &[1e9; 16])]), "the range of fp16"),
        (file(&[("w.lora_A", &[1, 8], &[0.0; 8])]), "both lora_A and lora_B"),
    ] {
        let to = folder.path().join("c.mlpackage");
        let tensors = SafeTensors::deserialize(&tensors).expect("tensors");
        let error = edit::replace(&model, &tensors, 1.0, &to).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
        assert!(!to.exists(), "nothing is left");
    }
    let dense = folder.path().join("d.mlpackage");
    edit::decompress(&model, &dense).expect("written");
    let dense = open(&dense);
    assert!(edit::list(&dense).expect("a list").iter().all(|w| w.form == "dense"));
    assert_eq!(decoded(&dense, "main", "w"), decoded(&model, "main", "w"));
}

#[test]
fn functions_are_merged_and_split() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (open(&model(folder.path(), "a", 0.25)), open(&model(folder.path(), "b", 0.5)));
    let to = folder.path().join("m.mlpackage");
    let source = |name: &str, model| Source { name: name.to_owned(), model, function: None };
    let (before, after) = edit::merge(&[source("one", &a), source("two", &b)], "two", &to).expect("written");
    assert_eq!((before, after), (2 * (8 + 8 + 32), 8 + 8 + 2 * 32), "the tables are stored once");
    let merged = open(&to);
    assert_eq!(merged.description.default_function, "two");
    assert_eq!((decoded(&merged, "one", "b")[0], decoded(&merged, "two", "b")[0]), (0.25, 0.5));
    let parts = edit::split(&merged, folder.path(), "part").expect("written");
    assert_eq!(parts.len(), 2);
    let one = open(&parts[0]);
    assert_eq!(one.description.functions["main"], a.description.functions["main"]);
    assert_eq!(decoded(&one, "main", "b"), [0.25; 16]);
    assert!(edit::split(&one, folder.path(), "x").expect_err("alone").to_string().contains("several functions"));
    let error = edit::merge(&[source("one", &a), source("one", &b)], "one", &folder.path().join("n.mlpackage"));
    assert!(error.expect_err("twice").to_string().contains("`one` twice"));
}

#[test]
fn metadata_and_names_are_edited() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = model(folder.path(), "a", 0.25);
    let a = open(&path);
    let to = folder.path().join("b.mlpackage");
    let changes = Changes {
        version: Some("2".to_owned()),
        user: vec![("key".to_owned(), Some("value".to_owned()))],
        ..Default::default()
    };
    edit::edit(&a, &changes, &to).expect("written");
    let b = open(&to);
    let m = &b.description.metadata;
    assert_eq!((m.author.as_str(), m.version.as_str(), m.user["key"].as_str()), ("somebody", "2", "value"));
    assert_eq!(decoded(&b, "main", "b"), [0.25; 16]);
    let renamed = folder.path().join("c.mlpackage");
    let names = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let changes = Changes {
        features: names(&[("x", "tokens"), ("y", "logits")]),
        functions: names(&[("main", "infer")]),
        ..Default::default()
    };
    edit::edit(&b, &changes, &renamed).expect("written");
    let c = open(&renamed);
    let f = c.description.function(None).expect("a function");
    assert_eq!(
        (c.description.default_function.as_str(), f.inputs[0].name.as_str(), f.outputs[0].name.as_str()),
        ("infer", "tokens", "logits")
    );
    for (features, part) in [
        (names(&[("z", "u")]), "expected one of x, y, found `z`"),
        (names(&[("x", "w")]), "`w`"),
        (names(&[("x", "1")]), "`1`"),
    ] {
        let changes = Changes { features, ..Default::default() };
        let error = edit::edit(&a, &changes, &folder.path().join("d.mlpackage")).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    let changes = Changes { default_function: Some("none".to_owned()), ..Default::default() };
    assert!(edit::edit(&a, &changes, &folder.path().join("d.mlpackage")).is_err());
}

#[test]
fn pipelines_are_made_and_taken_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = open(&model(folder.path(), "a", 0.25));
    let mut package = PackageBuilder::create(&folder.path().join("b.mlpackage")).expect("a package");
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let y = f.input("y", F16, [1, 16]).expect("an input");
    let z = f.op("relu").named("z").arg("x", &y).done().expect("relu");
    f.output("z", &z).expect("an output");
    package.add("main", f).expect("a function");
    package.finish().expect("written");
    let b = open(&folder.path().join("b.mlpackage"));
    let to = folder.path().join("p.mlpackage");
    edit::pipeline(&[&a, &b], &to).expect("written");
    let p = open(&to);
    let main = p.description.function(None).expect("a function");
    assert_eq!(
        (main.inputs[0].name.as_str(), main.inputs.len(), main.outputs[0].name.as_str(), main.outputs.len()),
        ("x", 1, "z", 1)
    );
    assert_eq!(p.parts.len(), 2);
    let parts = edit::split(&p, folder.path(), "part").expect("written");
    assert_eq!(decoded(&open(&parts[0]), "main", "b"), [0.25; 16]);
}

/// Every compressed form against the docstrings' formulas, by hand.
#[test]
fn compressed_forms_decode() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("forms.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let half = |shape: &[usize], v: &[f32]| Value::tensor(F16, shape, packed::floats(F16, v).expect("floats"));
    let bits =
        |dtype: DataType, width, shape: &[usize], v: &[u8]| Value::tensor(dtype, shape, packed::pack_bits(width, v));
    let mut all = Vec::new();
    // Two groups of rows, vectors of two along axis 1.
    let lut = half(&[2, 1, 4, 2], &[0., 1., 2., 3., 4., 5., 6., 7., 10., 11., 12., 13., 14., 15., 16., 17.]);
    let ids = bits(U2, 2, &[2, 2], &[0, 3, 1, 2]);
    all.push(
        f.op("constexpr_lut_to_dense")
            .named("vectors")
            .arg("indices", ids)
            .arg("lut", lut)
            .arg("vector_axis", 1)
            .done(),
    );
    let data = bits(U4, 4, &[2, 4], &[1, 2, 3, 4, 5, 6, 7, 8]);
    let offset = bits(U4, 4, &[2, 2], &[1, 0, 5, 8]);
    let scale = half(&[2, 2], &[1., 10., 2., 0.5]);
    all.push(
        f.op("constexpr_blockwise_shift_scale")
            .named("blocks")
            .arg("data", data)
            .arg("scale", scale)
            .arg("offset", offset)
            .done(),
    );
    let mask = bits(DataType::U1, 1, &[2, 3], &[0, 1, 0, 1, 1, 0]);
    all.push(
        f.op("constexpr_sparse_to_dense")
            .named("sparse")
            .arg("nonzero_data", half(&[3], &[7., 8., 9.]))
            .arg("mask", mask)
            .done(),
    );
    let wanted: HashMap<&str, (&[usize], &[f32])> = [
        ("vectors", ([2usize, 4].as_slice(), [0., 1., 6., 7., 12., 13., 14., 15.].as_slice())),
        ("blocks", (&[2, 4], &[0., 1., 30., 40., 0., 2., -0.5, 0.])),
        ("sparse", (&[2, 3], &[0., 7., 0., 8., 9., 0.])),
    ]
    .into_iter()
    .collect();
    for var in all {
        let var = var.expect("a weight");
        assert_eq!(var.shape().as_deref(), Some(wanted[var.name()].0), "{}", var.name());
        let y = f.op("add").arg("x", &var).arg("y", 0.0).done().expect("a sum");
        f.output(&format!("out_{}", var.name()), &y).expect("an output");
    }
    let x = f.input("x", F32, [1]).expect("an input");
    let unused = f.op("relu").arg("x", &x).done().expect("relu");
    f.output("z", &unused).expect("an output");
    package.add("main", f).expect("a function");
    package.finish().expect("written");
    let model = open(&path);
    for (name, (_, numbers)) in wanted {
        assert_eq!(decoded(&model, "main", name), numbers, "{name}");
    }
}
