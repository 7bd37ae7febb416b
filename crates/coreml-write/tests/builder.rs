//! The builder: what it refuses, by name; what it infers, against programs that coremltools wrote and the engine.

use std::path::{Path, PathBuf};

use coreml_engine::{Executable, Options};
use coreml_format::dtype::DataType::{self, F16, F32, I32};
use coreml_format::model::Model;
use coreml_format::program::{Dim, Opset, TensorType, Value, ValueType};
use coreml_write::builder::{BuildError, Extents, FunctionBuilder, PackageBuilder, Var, check, is_inferred, table};

fn function() -> (FunctionBuilder, Var) {
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let x = f.input("x", F16, [1, 48, 4, 4]).expect("an input");
    (f, x)
}

fn zeros(dtype: DataType, shape: &[usize]) -> Value {
    let bytes = dtype.packed_len(shape.iter().product()).expect("a size");
    Value::tensor(dtype, shape, vec![0; bytes])
}

#[test]
fn wrong_operations_are_refused_by_name() {
    type Make = fn(&mut FunctionBuilder, &Var) -> Result<Var, BuildError>;
    let cases: [(&str, &str, Make); 12] = [
        ("op", "conv_3`): weight has shape [64, 32, 1, 1] but the input has 48 channels", |f, x| {
            let w = f.constant("w", zeros(F16, &[64, 32, 1, 1]))?;
            f.op("conv").named("conv_3").arg("x", x).arg("weight", &w).done()
        }),
        ("op", "found parameter `colour`", |f, x| f.op("relu").arg("x", x).arg("colour", 1).done()),
        ("op", "parameter `y` is missing", |f, x| f.op("add").arg("x", x).done()),
        ("op", "parameter `x` is bound twice", |f, x| f.op("relu").arg("x", x).arg("x", x).done()),
        ("op", "expected fp16, fp32, found int32", |f, _| {
            let i = f.constant("i", Value::int(1))?;
            f.op("sin").arg("x", &i).done()
        }),
        ("op", "parameter `perm`: expected a constant, found `p`", |f, x| {
            let p = f.input("p", I32, [4])?;
            f.op("transpose").arg("x", x).arg("perm", &p).done()
        }),
        ("op", "expected 768 elements", |f, x| f.op("reshape").arg("x", x).arg("shape", [7, -1]).done()),
        ("op", "don't broadcast", |f, x| {
            let y = f.constant("y", zeros(F16, &[3]))?;
            f.op("mul").arg("x", x).arg("y", &y).done()
        }),
        ("op", "its results are not inferred", |f, x| {
            let w = f.constant("w", zeros(F16, &[4, 4]))?;
            f.op("rnn").arg("x", x).arg("initial_h", x).arg("weight_ih", &w).arg("weight_hh", &w).done()
        }),
        ("unknown-op", "`fly`", |f, x| f.op("fly").arg("x", x).done()),
        ("op", "expected fp16 [1, 48, 4, 4], found fp16 [1, 48, 4, 5] declared", |f, x| {
            let ty = ValueType::Tensor(TensorType::fixed(F16, &[1, 48, 4, 5]));
            f.op("relu").arg("x", x).typed(&[ty]).done()
        }),
        ("op", "expected a value of this function, found `x` of another", |f, _| {
            let mut other = FunctionBuilder::new(Opset::Ios18);
            let x = other.input("x", F16, [1])?;
            f.op("relu").arg("x", &x).done()
        }),
    ];
    for (kind, part, make) in cases {
        let (mut f, x) = function();
        let error = make(&mut f, &x).expect_err(part);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let mut old = FunctionBuilder::new(Opset::Ios16);
    let x = old.input("x", F16, [2]).expect("an input");
    let newer = old.op("slice_update").arg("x", &x).done().expect_err("newer").to_string();
    assert!(newer.contains("expected an operation of ios16, found one since ios18"), "{newer}");
    assert!(old.state("s", F16, &[2]).is_err());
}

#[test]
fn names_are_claimed_once() {
    let (mut f, x) = function();
    assert_eq!(f.input("x", F16, [1]).expect_err("again").kind(), "name");
    assert!(f.op("relu").named("a b").arg("x", &x).done().is_err());
    assert!(f.op("relu").named("1st").arg("x", &x).done().is_err());
    assert!(f.input("u", DataType::U8, [1]).is_err());
    f.output("y", &x).expect("renamed");
    assert_eq!(f.output("y", &x).expect_err("again").kind(), "name");
    assert!(FunctionBuilder::new(Opset::Ios18).finish().is_err());
    assert!(f.input("e", F16, Extents::Enumerated(vec![vec![1], vec![1, 2]])).is_err());
}

#[test]
fn what_is_not_needed_is_dropped() {
    let (mut f, x) = function();
    let unused = f.constant("unused", zeros(F16, &[4])).expect("a constant");
    f.op("mul").arg("x", &x).arg("y", &unused).done().expect("unused, too");
    let y = f.op("mul").named("y").arg("x", &x).arg("y", 2.5).done().expect("scaled");
    f.output("y", &y).expect("returned");
    let (function, description) = f.finish().expect("a function");
    let kinds: Vec<&str> = function.block.operations.iter().map(|o| o.kind.as_str()).collect();
    assert_eq!(kinds, ["const", "mul"]);
    // The literal took the element type of x.
    assert_eq!(function.block.operations[0].attributes["val"], Value::f16(2.5));
    assert_eq!((description.inputs.len(), description.outputs.len()), (1, 1));
}

#[test]
fn unknown_extents_stay_unknown() {
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let ids = f.input("ids", I32, Extents::Enumerated(vec![vec![1, 1], vec![1, 8]])).expect("an input");
    let table = f.constant("table", zeros(F16, &[10, 4])).expect("a table");
    let rows = f.op("gather").arg("x", &table).arg("indices", &ids).arg("axis", 0).done().expect("rows");
    assert_eq!(rows.ty().tensor().expect("a tensor").shape, [Dim::Fixed(1), Dim::Unknown, Dim::Fixed(4)]);
    let flat = f.op("reshape").arg("x", &rows).arg("shape", [-1, 4]).done().expect("flat");
    assert_eq!(flat.ty().tensor().expect("a tensor").shape, [Dim::Unknown, Dim::Fixed(4)]);
}

/// Programs of every package under a folder.
fn packages(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()) {
        match path.extension().and_then(|e| e.to_str()) {
            Some("mlpackage" | "mlmodelc") => found.push(path),
            _ => packages(&path, found),
        }
    }
}

/// Results that coremltools and Apple's compiler declared are those inferred here.
#[test]
fn inference_agrees_with_programs_of_coremltools() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = Vec::new();
    packages(&root.join("models"), &mut all);
    packages(&root.join("conformance"), &mut all);
    assert!(!all.is_empty());
    let shared = std::env::var_os("CANDLE_COREML_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    for part in ["models", "llm-layouts", "zoo"] {
        packages(&shared.join(part), &mut all);
    }
    let (mut programs, mut wrong) = (0, Vec::new());
    for path in all {
        let Ok(model) = Model::open(&path) else { continue };
        let Some(program) = model.body.program() else { continue };
        programs += 1;
        wrong.extend(check(program).into_iter().map(|e| format!("{}: {e}", path.display())));
    }
    assert!(programs > 0);
    assert!(wrong.is_empty(), "{} of {programs} programs: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
}

#[test]
fn most_operations_are_inferred() {
    let inferred = table::names().filter(|n| is_inferred(n)).count();
    assert!(inferred >= 130, "{inferred}");
}

/// A perceptron with a state, written, opened and run: the engine holds results to their declared types.
#[test]
fn a_built_package_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("count.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    let bytes: Vec<u8> = [1f32, 2.0, 3.0, -1.0, 0.0, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let weight = package.weight(F32, &[2, 3], [&bytes[..8], &bytes[8..]]).expect("a weight");
    assert!(!path.exists(), "it appears when it is complete");
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let x = f.input("x", F32, [1, 3]).expect("an input");
    let weight = f.constant("weight", weight).expect("a constant");
    let y = f
        .op("linear")
        .arg("x", &x)
        .arg("weight", &weight)
        .arg("bias", [0.5f32, -10.0].as_slice())
        .done()
        .expect("linear");
    let y = f.op("relu").arg("x", &y).done().expect("relu");
    f.output("y", &y).expect("an output");
    package.add("main", f).expect("a function");
    package.description.metadata.author = "a test".to_owned();
    package.finish().expect("written");
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 1, "nothing else is left");

    let model = Model::open(&path).expect("it opens");
    let program = model.body.program().expect("a program");
    assert!(check(program).is_empty());
    let executable = Executable::load(program, &model.weights, "main", &Options::default()).expect("it loads");
    let x = candle_core::Tensor::new(&[[1f32, 1.0, 1.0]], &candle_core::Device::Cpu).expect("a tensor");
    let out = executable.predict(&[("x", x)], None).expect("it runs");
    let y = out["y"].tensor().expect("a tensor").to_vec2::<f32>().expect("numbers");
    assert_eq!(y, [[6.5, 0.0]]);
    assert!(PackageBuilder::create(&path).is_err(), "it exists");
}

#[test]
fn an_unfinished_package_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut package = PackageBuilder::create(&folder.path().join("a.mlpackage")).expect("a package");
    assert!(package.weight(F32, &[3], [[0u8; 8]]).is_err(), "too few bytes");
    drop(package);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

/// coremltools' iOS 17 versions of `linear`, `matmul`, `conv` and `reshape`.
#[test]
fn constants_have_types_of_their_own_and_zeros_align_from_the_right_since_ios_17() {
    type Make = fn(&mut FunctionBuilder, &Var) -> Result<Var, BuildError>;
    let makes: [(&str, Make, &[usize], &str); 4] = [
        (
            "linear",
            |f, x| {
                let (w, b) = (f.constant("w", zeros(F32, &[5, 4]))?, f.constant("b", zeros(F32, &[5]))?);
                f.op("linear").arg("x", x).arg("weight", &w).arg("bias", &b).done()
            },
            &[2, 3, 5],
            "expected x and weight of one element type, found fp16 and fp32",
        ),
        (
            "matmul",
            |f, x| {
                let y = f.constant("y", zeros(F32, &[4, 6]))?;
                f.op("matmul").arg("x", x).arg("y", &y).done()
            },
            &[2, 3, 6],
            "expected x and y of one element type, found fp16 and fp32",
        ),
        (
            "conv",
            |f, x| {
                let w = f.constant("w", zeros(F32, &[5, 3, 1]))?;
                f.op("conv").arg("x", x).arg("weight", &w).done()
            },
            &[2, 5, 4],
            "expected x and weight of one element type, found fp16 and fp32",
        ),
        (
            "reshape",
            |f, x| f.op("reshape").arg("x", x).arg("shape", [0, 2, 0, 4]).done(),
            &[1, 2, 3, 4],
            "where one is 0",
        ),
    ];
    for (name, make, shape, refused) in makes {
        let of = |opset| {
            let mut f = FunctionBuilder::new(opset);
            let x = f.input("x", F16, [2, 3, 4]).expect("an input");
            make(&mut f, &x)
        };
        let y = of(Opset::Ios17).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(y.ty(), &ValueType::Tensor(TensorType::fixed(F16, shape)), "{name}");
        let error = of(Opset::Ios16).expect_err(name).to_string();
        assert!(error.contains(refused), "{name}: {error}");
    }
    // Of two values that are computed, or two constants, the types agree in every opset.
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let (x, y) = (f.input("x", F16, [2, 3]).expect("an input"), f.input("y", F32, [3, 2]).expect("an input"));
    let error = f.op("matmul").arg("x", &x).arg("y", &y).done().expect_err("two types").to_string();
    assert!(error.contains("of one element type"), "{error}");
}

/// 2ⁿ by doubling in a loop, then a branch: by hand for each input.
#[test]
fn loops_and_branches_run() {
    let mut f = FunctionBuilder::new(Opset::Ios17);
    let (x, n) = (f.input("x", F32, [2]).expect("an input"), f.input("n", I32, [1]).expect("an input"));
    let n = f.op("squeeze").arg("x", &n).arg("axes", [0]).done().expect("a scalar");
    let zero = f.shared("zero", Value::int(0));
    let last = f
        .while_loop(
            &[&zero, &x],
            |f, v| f.op("less").arg("x", &v[0]).arg("y", &n).done(),
            |f, v| {
                let next = f.op("add").arg("x", &v[0]).arg("y", 1).done()?;
                Ok(vec![next, f.op("add").arg("x", &v[1]).arg("y", &v[1]).done()?])
            },
        )
        .expect("a loop");
    let sum = f.op("reduce_sum").arg("x", &last[1]).arg("keep_dims", false).done().expect("a sum");
    let large = f.op("greater").arg("x", &sum).arg("y", 10.0).done().expect("a test");
    let mut inner = None;
    let y = f
        .cond(
            &large,
            |f| {
                // A nested branch, a value from outside, and the same value twice.
                let small = f.op("less").arg("x", &sum).arg("y", 100.0).done()?;
                let y = f.cond(
                    &small,
                    |f| Ok(vec![f.op("mul").arg("x", &last[1]).arg("y", -1.0).done()?]),
                    |_| Ok(vec![last[1].clone()]),
                )?;
                inner = Some(y[0].clone());
                Ok(vec![y[0].clone(), y[0].clone()])
            },
            |f| {
                let one = f.constant("one", Value::tensor(F32, &[2], [1f32, 1.0].map(f32::to_le_bytes).concat()))?;
                Ok(vec![one.clone(), x.clone()])
            },
        )
        .expect("a branch");
    let hidden = f.op("relu").arg("x", inner.expect("made")).done().expect_err("hidden").to_string();
    assert!(hidden.contains("of one that has ended"), "{hidden}");
    f.output("y", &y[0]).expect("an output");
    f.output("z", &y[1]).expect("an output");

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    package.add("main", f).expect("a function");
    package.finish().expect("written");
    if let Some(keep) = std::env::var_os("CANDLE_COREML_KEEP") {
        std::fs::rename(&path, Path::new(&keep).join("control.mlpackage")).expect("kept");
        return;
    }
    let model = Model::open(&path).expect("a model");
    let program = model.body.program().expect("a program");
    assert!(check(program).is_empty(), "{:?}", check(program));
    let run = Executable::load(program, &model.weights, "main", &Options::default()).expect("it loads");
    // n, then y and z: 1·(1, 2) = (1, 2) is small; 4·(1, 2) is 12 in sum and negated; 64·(1, 2) is kept.
    for (n, y, z) in [(0, [1f32, 1.0], [1f32, 2.0]), (2, [-4.0, -8.0], [-4.0, -8.0]), (6, [64.0, 128.0], [64.0, 128.0])]
    {
        let cpu = candle_core::Device::Cpu;
        let x = candle_core::Tensor::new(&[1f32, 2.0], &cpu).expect("x");
        let n = candle_core::Tensor::new(&[i64::from(n)], &cpu).expect("n");
        let out = run.predict(&[("x", x), ("n", n)], None).unwrap_or_else(|e| panic!("{e}"));
        let vector = |name: &str| out[name].tensor().and_then(|t| t.to_vec1::<f32>().ok()).expect("a vector");
        assert_eq!((vector("y"), vector("z")), (y.to_vec(), z.to_vec()));
    }
}

#[test]
fn wrong_blocks_are_refused_by_name() {
    type Make = fn(&mut FunctionBuilder, &Var, &Var) -> Result<Vec<Var>, BuildError>;
    let cases: [(&str, Make); 6] = [
        ("parameter `pred`: expected bool [], found fp32 [2]", |f, x, _| f.cond(x, |_| Ok(vec![]), |_| Ok(vec![]))),
        ("returns at least one value", |f, x, p| f.cond(p, |_| Ok(vec![]), |_| Ok(vec![x.clone()]))),
        ("the same results, found 1 and 2", |f, x, p| {
            f.cond(p, |_| Ok(vec![x.clone()]), |_| Ok(vec![x.clone(), x.clone()]))
        }),
        ("the same results, found fp32 [2] and bool []", |f, x, p| {
            f.cond(p, |_| Ok(vec![x.clone()]), |_| Ok(vec![p.clone()]))
        }),
        ("expected bool [] to go on, found fp32 [2]", |f, x, _| {
            f.while_loop(&[x], |_, v| Ok(v[0].clone()), |_, v| Ok(v.to_vec()))
        }),
        ("expected a body that returns fp32 [2], found bool []", |f, x, p| {
            f.while_loop(&[x], |_, _| Ok(p.clone()), |_, _| Ok(vec![p.clone()]))
        }),
    ];
    for (part, make) in cases {
        let mut f = FunctionBuilder::new(Opset::Ios17);
        let x = f.input("x", F32, [2]).expect("an input");
        let sum = f.op("reduce_sum").arg("x", &x).arg("keep_dims", false).done().expect("a sum");
        let p = f.op("greater").arg("x", &sum).arg("y", 0.0).done().expect("a test");
        let error = make(&mut f, &x, &p).expect_err(part).to_string();
        assert!(error.contains(part), "expected {part}: {error}");
        // The function goes on where it was.
        f.output("y", &x).expect("an output");
        assert!(f.finish().expect("a function").0.block.operations.iter().all(|o| o.kind == "identity"));
    }
}

#[test]
fn constants_fold_biases_fuse_and_results_are_named() {
    let numbers = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        Value::tensor(F32, shape, (0..count).flat_map(|i| (i as f32 * 0.5 - 1.0).to_le_bytes()).collect())
    };
    let folder = tempfile::tempdir().expect("a folder");
    let build = |name: &str, optimized: bool| {
        let path = folder.path().join(name);
        let mut package = PackageBuilder::create(&path).expect("a package");
        let mut f = FunctionBuilder::new(Opset::Ios17);
        let x = f.input("x", F32, [1, 4]).expect("an input");
        let w = f.constant("w", numbers(&[3, 4])).expect("a weight");
        let b = f.constant("b", numbers(&[3])).expect("a bias");
        let b = f.op("expand_dims").arg("x", &b).arg("axes", [0]).done().expect("wide");
        let y = f.op("linear").arg("x", &x).arg("weight", &w).done().expect("a product");
        let y = f.op("add").arg("x", &b).arg("y", &y).done().expect("a sum");
        let extents = f.op("shape").arg("x", &y).done().expect("extents");
        let image = f.op("reshape").arg("x", &y).arg("shape", [1, 3, 1, 1]).done().expect("an image");
        let k = f.constant("k", numbers(&[2, 3, 1, 1])).expect("a kernel");
        let c = f.constant("c", numbers(&[2, 1, 1])).expect("a bias");
        let z = f.op("conv").arg("x", &image).arg("weight", &k).done().expect("a convolution");
        let z = f.op("add").arg("x", &z).arg("y", &c).done().expect("a sum");
        // Sums that are no biases: of a product with itself, and of a value that is no constant.
        let v = f.op("linear").arg("x", &x).arg("weight", &w).done().expect("a product");
        let twice = f.op("add").arg("x", &v).arg("y", &v).done().expect("a sum");
        let far = f.op("cast").arg("x", &extents).arg("dtype", "fp32").done().expect("numbers");
        let far = f.op("reduce_sum").arg("x", &far).arg("keep_dims", false).done().expect("a number");
        let twice = f.op("add").arg("x", &twice).arg("y", &far).done().expect("a sum");
        for (name, value) in [("y", &y), ("z", &z), ("t", &twice), ("same", &x)] {
            f.output(name, value).expect("an output");
        }
        if optimized { package.add_optimized("main", f) } else { package.add("main", f) }.expect("a function");
        package.finish().expect("written");
        let model = Model::open(&path).expect("a model");
        let program = model.body.program().expect("a program");
        assert!(check(program).is_empty(), "{:?}", check(program));
        let kinds: Vec<String> = program.functions["main"].block.operations.iter().map(|o| o.kind.clone()).collect();
        let run = Executable::load(program, &model.weights, "main", &Options::default()).expect("it loads");
        let x = candle_core::Tensor::new(&[[1f32, 2.0, -1.0, 0.5]], &candle_core::Device::Cpu).expect("x");
        let out = run.predict(&[("x", x)], None).unwrap_or_else(|e| panic!("{e}"));
        let flat =
            |n: &str| out[n].tensor().and_then(|t| t.flatten_all().ok()?.to_vec1::<f32>().ok()).expect("numbers");
        (kinds, ["y", "z", "t", "same"].map(flat))
    };
    let count = |kinds: &[String], kind: &str| kinds.iter().filter(|k| *k == kind).count();
    let (plain, wanted) = build("plain.mlpackage", false);
    let (kinds, found) = build("optimized.mlpackage", true);
    assert_eq!(found, wanted);
    // The input that is returned keeps its identity.
    assert_eq!((count(&plain, "identity"), count(&kinds, "identity")), (1, 1));
    assert_eq!((count(&plain, "add"), count(&kinds, "add")), (4, 2), "{kinds:?}");
    assert_eq!((count(&kinds, "expand_dims"), count(&kinds, "shape"), count(&kinds, "linear")), (0, 0, 2), "{kinds:?}");
}

/// As coremltools' converter has it: an `identity`, named after the input, whose result nothing uses.
#[test]
fn inputs_that_nothing_uses_are_kept_on_demand() {
    let kinds = |keep: bool| {
        let mut f = FunctionBuilder::new(Opset::Ios18);
        if keep {
            f.keep_inputs();
        }
        let x = f.input("x", DataType::F32, [2]).expect("an input");
        f.input("position", DataType::I32, [1]).expect("an input");
        f.state("cache", DataType::F16, &[2]).expect("a state");
        let y = f.op("relu").arg("x", &x).done().expect("an operation");
        f.output("y", &y).expect("an output");
        let (function, _) = f.finish().expect("a function");
        let names = function.block.operations.iter().flat_map(|op| &op.outputs).map(|o| o.name.clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(kinds(false), ["y"]);
    assert_eq!(kinds(true), ["y", "position_tmp"]);
}
