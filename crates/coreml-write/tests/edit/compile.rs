//! Compiled models and their packages: equal part by part to those of Apple's compiler where there are any.

use std::path::{Path, PathBuf};

use coreml_format::description::{DimRange, FeatureType, ShapeConstraint};
use coreml_format::dtype::DataType::{F16, F32};
use coreml_format::mil_text;
use coreml_format::model::Model;
use coreml_format::program::{Opset, Program, Value, ValueData};
use coreml_write::builder::{FunctionBuilder, PackageBuilder};
use coreml_write::compile::{compile, decompile};
use serde_json::json;

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The program without the versions of the compilers.
fn program(folder: &Path) -> Program {
    let text = String::from_utf8(read(&folder.join("model.mil"))).expect("text");
    let mut program = mil_text::parse(&text).expect("a program");
    if let Some(Value { data: ValueData::Dictionary(entries), .. }) = program.attributes.get_mut("buildInfo") {
        entries.retain(|(key, _)| !format!("{key:?}").contains("coremlc-") && !format!("{key:?}").contains("candle"));
    }
    program
}

/// The text from the functions on, which `buildInfo` with its versions precedes.
fn functions(folder: &Path) -> String {
    let text = String::from_utf8(read(&folder.join("model.mil"))).expect("text");
    text[text.find("\n{\n").expect("a body")..].trim_end().to_owned()
}

fn metadata(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&read(&folder.join("metadata.json"))).expect("JSON")
}

/// Bytes around the description, and the description with its length.
fn split(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[0x4b..0x53].try_into().expect("eight bytes")) as usize;
    ([&bytes[..0x4b], &bytes[0x53 + length..]].concat(), bytes[0x53..0x53 + length].to_vec())
}

fn zoo() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("CANDLE_COREML_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let zoo = shared.join("zoo");
    if !zoo.is_dir() {
        eprintln!("skipped: there are no public models here");
    }
    zoo.is_dir().then_some(zoo)
}

/// A model that its authors publish in both forms: what we compile of the package is what Apple's compiler made of it.
#[test]
fn a_package_compiles_to_what_the_compiler_of_apple_makes() {
    let Some(zoo) = zoo() else { return };
    let apple = zoo.join("jafreck.ironmill.02/base.mlmodelc");
    let folder = tempfile::tempdir().expect("a folder");
    let ours = folder.path().join("base.mlmodelc");
    compile(&super::open(&zoo.join("jafreck.ironmill.03/base.mlpackage")), &ours).expect("compiled");
    assert_eq!(program(&ours), program(&apple));
    assert_eq!(metadata(&ours), metadata(&apple));
    for name in ["coremldata.bin", "analytics/coremldata.bin"] {
        assert_eq!(read(&ours.join(name)), read(&apple.join(name)), "{name}");
    }
}

/// Every public compiled model, made a package and compiled again.
#[test]
fn compiled_models_become_packages_and_compile_to_themselves() {
    let Some(zoo) = zoo() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut found = 0;
    for id in std::fs::read_dir(&zoo).expect("a folder").map(|e| e.expect("an entry").path()) {
        let Ok(entries) = std::fs::read_dir(&id) else { continue };
        for apple in entries.map(|e| e.expect("an entry").path()).filter(|p| p.join("model.mil").exists()) {
            found += 1;
            let stem = apple.file_name().expect("a name").to_string_lossy().replace(".mlmodelc", "");
            let package = folder.path().join(format!("{stem}.mlpackage"));
            let ours = folder.path().join(format!("{stem}.mlmodelc"));
            decompile(&super::open(&apple), &package).expect("a package");
            let opened = super::open(&package);
            assert_eq!(opened.description, super::open(&apple).description, "{stem}");
            compile(&opened, &ours).expect("compiled");
            assert_eq!(program(&ours), program(&apple), "{stem}");
            // Operations that have no name attribute are given the name of their result.
            if !stem.starts_with("base") {
                assert_eq!(functions(&ours), functions(&apple), "{stem}");
            }
            assert_eq!(metadata(&ours), metadata(&apple), "{stem}");
            let [ours_data, apple_data] = [&ours, &apple].map(|p| read(&p.join("coremldata.bin")));
            assert_eq!(split(&ours_data).0, split(&apple_data).0, "{stem}");
            // Entries of the user's metadata have no order.
            assert_eq!(split(&ours_data).1.len(), split(&apple_data).1.len(), "{stem}");
            let weights = Path::new("weights/weight.bin");
            assert_eq!(apple.join(weights).exists(), ours.join(weights).exists(), "{stem}");
            if apple.join(weights).exists() {
                let inside = package.join("Data/com.apple.CoreML").join(weights);
                assert!(read(&apple.join(weights)) == read(&inside), "{stem}: weights of the package");
                assert!(read(&apple.join(weights)) == read(&ours.join(weights)), "{stem}: weights");
            }
        }
    }
    assert!(found >= 6, "{found}");
}

/// Two functions over a state and an input of any length, with weights in a file.
fn flexible(folder: &Path) -> PathBuf {
    let path = folder.join("two.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    let weight = (0..32).flat_map(|v| half::f16::from_f32(v as f32 / 8.0).to_le_bytes()).collect::<Vec<u8>>();
    let weight = package.weight(F16, &[4, 8], [weight]).expect("a weight");
    for (name, zeroed) in [("infer", false), ("reset", true)] {
        let mut f = FunctionBuilder::new(Opset::Ios18);
        let x = f.input("x", F16, [1, 8]).expect("an input");
        let cache = f.state("cache", F16, &[1, 4]).expect("a state");
        let w = f.constant("w", weight.clone()).expect("a constant");
        let y = f.op("linear").arg("x", &x).arg("weight", &w).done().expect("a product");
        let old = f.read_state(&cache).expect("a read");
        let y = f.op("add").named("y").arg("x", &y).arg("y", &old).done().expect("a sum");
        let new = if zeroed { f.op("sub").arg("x", &y).arg("y", &y).done().expect("zeros") } else { y.clone() };
        f.write_state(&cache, &new).expect("a write");
        f.output("y", &y).expect("an output");
        package.add(name, f).expect("a function");
    }
    package.description.metadata.license = "MIT".to_owned();
    package.finish().expect("written");
    path
}

#[test]
fn functions_states_and_weights_are_kept_both_ways() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = super::open(&flexible(folder.path()));
    let (compiled, again) = (folder.path().join("two.mlmodelc"), folder.path().join("again.mlpackage"));
    compile(&source, &compiled).expect("compiled");
    let opened = Model::open(&compiled).expect("a compiled model");
    assert_eq!(opened.description, source.description);
    let entry = &metadata(&compiled)[0];
    assert_eq!(entry["functions"][1]["name"], "reset");
    assert_eq!(entry["functions"][1]["mlProgramOperationTypeHistogram"]["Ios18.sub"], 1);
    assert_eq!((&entry["storagePrecision"], &entry["license"]), (&json!("Float16"), &json!("MIT")));
    assert_eq!(entry["stateSchema"][0]["formattedType"], "State (Float16 1 × 4)");
    decompile(&opened, &again).expect("a package");
    let back = super::open(&again);
    let original = source.body.program().expect("a program");
    assert_eq!(back.body.program().expect("a program").functions, original.functions);
    assert_eq!(back.description, source.description);
    let order = |p: &Program| p.functions["infer"].inputs.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
    assert_eq!(order(back.body.program().expect("a program")), order(original));
    // Neither direction takes what the other makes, nor a path that exists.
    for (result, part) in [
        (compile(&opened, &folder.path().join("n")), "a compiled model"),
        (decompile(&source, &folder.path().join("n")), "one that is not"),
        (compile(&source, &compiled), "exists"),
        (decompile(&opened, &again), "exists"),
    ] {
        let text = result.expect_err("refused").to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn flexible_shapes_stand_at_the_function() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("f.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    let mut f = FunctionBuilder::new(Opset::Ios17);
    let x = f.input("x", F32, [1, 3]).expect("an input");
    let y = f.op("relu").named("y").arg("x", &x).done().expect("an operation");
    f.output("y", &y).expect("an output");
    package.add("main", f).expect("a function");
    package.finish().expect("written");
    let mut model = super::open(&path);
    let ranges = vec![DimRange { min: 1, max: Some(1) }, DimRange { min: 1, max: None }];
    let cases = [
        (ShapeConstraint::Ranges(ranges), "(\"RangeDims\", {{\"x\", [[1, 1], [1, -1]]}})", "1 × 1..."),
        (ShapeConstraint::Enumerated(vec![vec![1, 3], vec![1, 5]]), "{{\"x\", [1, 5]}}", "1 × 3 | 1 × 5"),
    ];
    for (i, (set, part, words)) in cases.into_iter().enumerate() {
        let f = model.description.functions.get_mut("main").expect("a function");
        if let FeatureType::MultiArray { constraint, .. } = &mut f.inputs[0].ty {
            *constraint = set;
        }
        let to = folder.path().join(format!("{i}.mlmodelc"));
        compile(&model, &to).expect("compiled");
        let text = String::from_utf8(read(&to.join("model.mil"))).expect("text");
        assert!(text.contains("((\"DefaultShapes\", {{\"x\", [1, 3]}}), ") && text.contains(part), "{text}");
        assert_eq!(metadata(&to)[0]["inputSchema"][0]["shapeFlexibility"], words);
        let back = folder.path().join(format!("{i}.mlpackage"));
        decompile(&Model::open(&to).expect("a model"), &back).expect("a package");
        assert!(super::open(&back).body.program().expect("a program").functions["main"].attributes.is_empty());
    }
}

#[test]
fn what_can_not_be_compiled_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("out.mlmodelc");
    let refused = |model: &Model, parts: &[&str]| {
        let text = compile(model, &to).expect_err("refused").to_string();
        assert!(parts.iter().all(|p| text.contains(p)), "{text}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
        assert!(left.iter().all(|e| !e.file_name().to_string_lossy().contains("out.mlmodelc")), "{left:?}");
    };
    // A scaler: specification version 1, an empty message in field 604.
    let scaler = folder.path().join("scaler.mlmodel");
    std::fs::write(&scaler, [8, 1, 0xe2, 0x25, 0]).expect("written");
    refused(&Model::open(&scaler).expect("a model"), &["scaler.mlmodel", "an ML Program", "type scaler", "not public"]);
    let path = flexible(folder.path());
    let mut model = super::open(&path);
    if let coreml_format::model_types::Body::Program(program) = &mut model.body {
        let block = &mut program.functions.get_mut("infer").expect("a function").block;
        block.operations[0].outputs[0].name = "w.1".to_owned();
    }
    refused(&model, &["function `infer`", "`w.1`", "letters"]);
    let weights = path.join("Data/com.apple.CoreML/weights/weight.bin");
    let bytes = read(&weights);
    std::fs::write(&weights, &bytes[..bytes.len() - 32]).expect("written");
    refused(&super::open(&path), &["weight.bin"]);
    std::fs::remove_file(&weights).expect("removed");
    refused(&super::open(&path), &["weight.bin"]);
}
