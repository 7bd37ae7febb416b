//! Rewrites: programs run before and after, and what the rewrites leave alone.

use coreml_engine::{Executable, Options};
use coreml_format::dtype::DataType::{self, F16, F32, I32};
use coreml_format::model::Model;
use coreml_format::program::{Opset, Program, Value};
use coreml_write::builder::{FunctionBuilder, PackageBuilder, Var, check};
use coreml_write::edit::{Changes, edit_with};
use coreml_write::passes::{GROWTH, Half, Passes, Report};
use indexmap::IndexMap;

/// Numbers between −1 and 1 that repeat late.
pub(super) fn wave(shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product::<usize>()).map(|i| (i as f32 * 1.7).sin()).collect()
}

pub(super) fn floats(shape: &[usize], values: &[f32]) -> Value {
    Value::tensor(F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub(super) fn waves(shape: &[usize]) -> Value {
    floats(shape, &wave(shape))
}

pub(super) fn positive(count: usize) -> Value {
    floats(&[count], &wave(&[count]).iter().map(|v| v + 2.0).collect::<Vec<_>>())
}

pub(super) type Build = fn(&mut FunctionBuilder, &Var) -> Vec<Var>;

/// A model with an input `x` and results `y0`, `y1`, …
pub(super) fn model(folder: &std::path::Path, opset: Opset, shape: &[usize], build: Build) -> Model {
    let path = folder.join("before.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    let mut f = FunctionBuilder::new(opset);
    let x = f.input("x", F32, shape.to_vec()).expect("an input");
    for (i, y) in build(&mut f, &x).iter().enumerate() {
        f.output(&format!("y{i}"), y).expect("an output");
    }
    package.add("main", f).expect("a function");
    package.finish().expect("written");
    Model::open(&path).expect("a model")
}

fn results(model: &Model, shape: &[usize]) -> Vec<Vec<f32>> {
    let program = model.body.program().expect("a program");
    assert!(check(program).is_empty(), "{:?}", check(program));
    let run = Executable::load(program, &model.weights, "main", &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let x = candle_core::Tensor::from_vec(wave(shape), shape, &candle_core::Device::Cpu).expect("x");
    let out = run.predict(&[("x", x)], None).unwrap_or_else(|e| panic!("{e}"));
    let names = &program.functions["main"].block.outputs;
    names
        .iter()
        .map(|n| {
            let flat = out[n].tensor().expect("a tensor").flatten_all().expect("flat");
            flat.to_dtype(candle_core::DType::F32).and_then(|t| t.to_vec1()).expect("numbers")
        })
        .collect()
}

/// Runs constants in the engine.
fn evaluate(program: &Program) -> Result<IndexMap<String, Value>, String> {
    let run = Executable::load(program, &Default::default(), "main", &Options::default()).map_err(|e| e.to_string())?;
    let out = run.predict::<candle_core::Tensor>(&[], None).map_err(|e| e.to_string())?;
    let block = &program.functions["main"].block;
    let types: IndexMap<&str, DataType> = block
        .operations
        .iter()
        .flat_map(|o| &o.outputs)
        .filter_map(|o| Some((o.name.as_str(), o.ty.tensor()?.dtype)))
        .collect();
    let value = |name: &String| {
        let tensor = out[name].tensor().expect("a tensor");
        let flat =
            tensor.flatten_all().and_then(|t| t.to_dtype(candle_core::DType::F32)).and_then(|t| t.to_vec1::<f32>());
        let flat = flat.expect("numbers");
        let bytes = match types[name.as_str()] {
            I32 => flat.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            _ => flat.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        (name.clone(), Value::tensor(types[name.as_str()], tensor.dims(), bytes))
    };
    Ok(block.outputs.iter().map(value).collect())
}

fn kinds(model: &Model) -> Vec<String> {
    let block = &model.body.program().expect("a program").functions["main"].block;
    block.operations.iter().filter(|o| o.kind != "const").map(|o| o.kind.clone()).collect()
}

fn rewritten(model: &Model, passes: Passes) -> Result<(Model, Report), String> {
    let to = model.path.with_file_name("after.mlpackage");
    let changes = Changes { passes, ..Changes::default() };
    let report = edit_with(model, &changes, Some(&mut evaluate), &to).map_err(|e| e.to_string())?;
    Ok((Model::open(&to).expect("a model"), report))
}

pub(super) fn close(found: &[Vec<f32>], wanted: &[Vec<f32>], tolerance: f32, name: &str) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found.len(), wanted.len());
        let largest = wanted.iter().fold(1f32, |m, v| m.max(v.abs()));
        for (a, b) in found.iter().zip(wanted) {
            assert!((a - b).abs() <= tolerance * largest, "{name}: {a} for {b}");
        }
    }
}

pub(super) fn constant(f: &mut FunctionBuilder, value: Value) -> Var {
    let name = format!("c{}", value.ty.tensor().map_or(0, |t| t.shape.len()));
    f.shared(&name, value)
}

pub(super) fn op(f: &mut FunctionBuilder, kind: &str, x: &Var, y: Value) -> Var {
    let y = constant(f, y);
    f.op(kind).arg("x", x).arg("y", &y).done().expect(kind)
}

pub(super) fn conv(f: &mut FunctionBuilder, kind: &str, x: &Var, weight: &[usize], groups: usize) -> Var {
    let weight = constant(f, waves(weight));
    f.op(kind).arg("x", x).arg("weight", &weight).arg("groups", groups).done().expect(kind)
}

pub(super) fn batch_norm(f: &mut FunctionBuilder, x: &Var, channels: usize) -> Var {
    let (mean, beta) = (constant(f, waves(&[channels])), constant(f, waves(&[channels])));
    let (variance, gamma) = (constant(f, positive(channels)), constant(f, waves(&[channels])));
    let call = f.op("batch_norm").arg("x", x).arg("mean", &mean).arg("variance", &variance);
    call.arg("gamma", &gamma).arg("beta", &beta).arg("epsilon", 1e-3).done().expect("a norm")
}

/// What each rewrite matches and what it leaves, with the operations afterwards.
#[test]
fn scales_biases_and_norms_fuse_and_results_stay() {
    let cases: [(&str, &[usize], Build, &[&str]); 12] = [
        (
            "conv and norm, scale, number",
            &[2, 4, 5, 6],
            |f, x| {
                let y = conv(f, "conv", x, &[6, 2, 3, 2], 2);
                let y = batch_norm(f, &y, 6);
                let y = op(f, "mul", &y, waves(&[6, 1, 1]));
                let y = op(f, "real_div", &y, floats(&[], &[3.0]));
                vec![op(f, "sub", &y, waves(&[1, 6, 1, 1]))]
            },
            &["conv"],
        ),
        (
            "grouped transposed convolution and norm",
            &[1, 4, 5],
            |f, x| {
                let y = conv(f, "conv_transpose", x, &[4, 3, 3], 2);
                let y = batch_norm(f, &y, 6);
                vec![op(f, "add", &y, waves(&[6, 1]))]
            },
            &["conv_transpose"],
        ),
        (
            "transposed convolution over a volume",
            &[1, 3, 2, 3, 2],
            |f, x| {
                let y = conv(f, "conv_transpose", x, &[3, 5, 2, 2, 1], 1);
                vec![batch_norm(f, &y, 5)]
            },
            &["conv_transpose"],
        ),
        (
            "linear, from both sides",
            &[3, 5],
            |f, x| {
                let (w, b) = (constant(f, waves(&[4, 5])), constant(f, waves(&[4])));
                let y = f.op("linear").arg("x", x).arg("weight", &w).arg("bias", &b).done().expect("a product");
                let c = constant(f, positive(4));
                let y = f.op("sub").arg("x", &c).arg("y", &y).done().expect("a difference");
                vec![op(f, "mul", &y, waves(&[1, 4]))]
            },
            &["linear"],
        ),
        (
            "matmul",
            &[2, 3, 5],
            |f, x| {
                let y = op(f, "matmul", x, waves(&[5, 4]));
                let y = op(f, "add", &y, waves(&[4]));
                let w = constant(f, waves(&[6, 4]));
                let z = f.op("matmul").arg("x", &y).arg("y", &w).arg("transpose_y", true).done().expect("a product");
                vec![op(f, "sub", &z, waves(&[1, 1, 6]))]
            },
            &["linear", "linear"],
        ),
        // Below: what stays.
        (
            "constants along other axes",
            &[1, 4, 4, 4],
            |f, x| {
                let y = conv(f, "conv", x, &[4, 4, 1, 1], 1);
                let y = op(f, "add", &y, waves(&[1, 4]));
                let y = op(f, "add", &y, waves(&[4, 4, 1]));
                vec![op(f, "mul", &y, waves(&[1, 4, 4, 4]))]
            },
            &["conv", "add", "add", "mul"],
        ),
        (
            "a constant that makes the result larger",
            &[1, 3, 4],
            |f, x| {
                let y = conv(f, "conv", x, &[3, 3, 1], 1);
                let z = op(f, "add", &y, waves(&[1, 1, 3, 1]));
                let y = conv(f, "conv", x, &[1, 3, 1], 1);
                vec![op(f, "mul", &y, waves(&[5, 1])), z]
            },
            &["conv", "add", "conv", "mul"],
        ),
        (
            "products that others use, and results",
            &[2, 4],
            |f, x| {
                let w = constant(f, waves(&[4, 4]));
                let y = f.op("linear").arg("x", x).arg("weight", &w).done().expect("a product");
                let z = op(f, "mul", &y, waves(&[4]));
                // A scale of a product whose weight another one has.
                let v = f.op("linear").arg("x", &z).arg("weight", &w).done().expect("a product");
                vec![y, op(f, "mul", &v, waves(&[4]))]
            },
            &["linear", "mul", "linear", "mul"],
        ),
        (
            "a bias of a product whose weight another one has",
            &[2, 4],
            |f, x| {
                let w = constant(f, waves(&[4, 4]));
                let y = f.op("linear").arg("x", x).arg("weight", &w).done().expect("a product");
                let y = op(f, "add", &y, waves(&[4]));
                vec![f.op("linear").arg("x", &y).arg("weight", &w).done().expect("a product")]
            },
            &["linear", "linear"],
        ),
        (
            "a quotient by zero, a number over a product, a norm along another axis",
            &[1, 3, 3],
            |f, x| {
                let y = conv(f, "conv", x, &[3, 3, 1], 1);
                let y = op(f, "real_div", &y, floats(&[3, 1], &[1.0, 0.0, 2.0]));
                let w = constant(f, waves(&[3, 3]));
                let z = f.op("linear").arg("x", x).arg("weight", &w).done().expect("a product");
                let z = batch_norm(f, &z, 3);
                let v = conv(f, "conv", x, &[3, 3, 1], 1);
                let c = constant(f, floats(&[], &[2.0]));
                vec![
                    z,
                    f.op("real_div").arg("x", &c).arg("y", &v).done().expect("a quotient"),
                    op(f, "mul", &y, floats(&[], &[0.0])),
                ]
            },
            &["conv", "real_div", "linear", "batch_norm", "conv", "real_div", "mul"],
        ),
        (
            "a matrix on the left, a transposed input",
            &[4, 4],
            |f, x| {
                let c = constant(f, waves(&[4, 4]));
                let y = f.op("matmul").arg("x", &c).arg("y", x).done().expect("a product");
                let y = op(f, "add", &y, waves(&[4]));
                let z = f.op("matmul").arg("x", x).arg("y", &c).arg("transpose_x", true).done().expect("a product");
                vec![y, op(f, "add", &z, waves(&[4]))]
            },
            &["matmul", "add", "matmul", "add"],
        ),
        (
            "inside of a branch, and not across its border",
            &[2, 4],
            |f, x| {
                let w = constant(f, waves(&[4, 4]));
                let outer = f.op("linear").arg("x", x).arg("weight", &w).done().expect("a product");
                let sum = f.op("reduce_sum").arg("x", x).arg("keep_dims", false).done().expect("a sum");
                let large = f.op("greater").arg("x", &sum).arg("y", -100.0).done().expect("a test");
                f.cond(
                    &large,
                    |f| {
                        let w = f.constant("inner", waves(&[4, 4]))?;
                        let y = f.op("linear").arg("x", x).arg("weight", &w).done()?;
                        Ok(vec![op(f, "mul", &y, waves(&[4]))])
                    },
                    |f| Ok(vec![op(f, "add", &outer, waves(&[4]))]),
                )
                .expect("a branch")
            },
            &["linear", "reduce_sum", "greater", "cond"],
        ),
    ];
    for (name, shape, build, wanted) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let before = model(folder.path(), Opset::Ios17, shape, build);
        let (after, _) = rewritten(&before, Passes::usual()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let finite = |all: Vec<Vec<f32>>| -> Vec<Vec<f32>> {
            let one = |v: &f32| if v.is_finite() { *v } else { 1e3 };
            all.iter().map(|part| part.iter().map(one).collect()).collect()
        };
        close(&finite(results(&after, shape)), &finite(results(&before, shape)), 1e-5, name);
        assert_eq!(kinds(&after), wanted, "{name}");
        let nested = |m: &Model| {
            let block = m.body.program().expect("a program").functions["main"].block.clone();
            block
                .operations
                .iter()
                .flat_map(|o| o.blocks.clone())
                .flat_map(|b| b.operations)
                .filter(|o| o.kind != "const")
                .count()
        };
        if wanted.contains(&"cond") {
            assert_eq!((nested(&before), nested(&after)), (3, 2), "{name}");
        }
    }
}

#[test]
fn constants_are_computed_within_a_limit() {
    let build: Build = |f, x| {
        let a = constant(f, waves(&[4, 3]));
        let a = f.op("transpose").arg("x", &a).arg("perm", [1, 0]).done().expect("turned");
        let b = constant(f, waves(&[1, 4]));
        let b = f.op("exp").arg("x", &b).done().expect("e");
        let row = constant(f, waves(&[1, 4]));
        let wide = f.op("tile").arg("x", &row).arg("reps", [3000, 1]).done().expect("many");
        let wide = f.op("reduce_max").arg("x", &wide).arg("axes", [0]).arg("keep_dims", true).done().expect("a row");
        let extents = f.op("shape").arg("x", x).done().expect("extents");
        let more = constant(f, Value::ints(&[1]));
        let extents = f
            .op("concat")
            .arg("values", [&extents, &more])
            .arg("axis", 0)
            .arg("interleave", false)
            .done()
            .expect("joined");
        let y = f.op("mul").arg("x", x).arg("y", &a).done().expect("a product");
        let y = f.op("add").arg("x", &y).arg("y", &b).done().expect("a sum");
        let y = f.op("sub").arg("x", &y).arg("y", &wide).done().expect("a difference");
        let noise = f.op("random_uniform").arg("shape", [3, 4]).arg("low", 0.0).arg("high", 0.0);
        let ty = coreml_format::program::ValueType::Tensor(coreml_format::program::TensorType::fixed(F32, &[3, 4]));
        let noise = noise.arg("seed", 1).typed(&[ty]).done().expect("noise");
        let y = f.op("add").arg("x", &y).arg("y", &noise).done().expect("a sum");
        // A constant that is returned stays an operation's result.
        vec![f.op("reshape").arg("x", &y).arg("shape", &extents).done().expect("wide"), b]
    };
    let rest = ["mul", "add", "sub", "random_uniform", "add", "reshape"];
    for (growth, more) in [(GROWTH, &["exp"][..]), (1024, &["exp", "tile", "reduce_max"])] {
        let folder = tempfile::tempdir().expect("a folder");
        let before = model(folder.path(), Opset::Ios17, &[3, 4], build);
        let passes = Passes { fold: Some(growth), ..Passes::default() };
        let (after, report) = rewritten(&before, passes).expect("rewritten");
        close(&results(&after, &[3, 4]), &results(&before, &[3, 4]), 1e-6, "constants");
        let wanted: Vec<&str> = more.iter().copied().chain(rest).collect();
        assert_eq!(kinds(&after), wanted, "{growth}");
        assert!(report.folded >= 3);
    }
}

#[test]
fn fp16_is_brought_in_and_results_stay() {
    let build: Build = |f, x| {
        let (w, b) = (constant(f, waves(&[300, 4])), constant(f, waves(&[300])));
        let y = f.op("linear").arg("x", x).arg("weight", &w).arg("bias", &b).done().expect("a product");
        let tiny = constant(f, floats(&[], &[1e-9]));
        let y = f.op("layer_norm").arg("x", &y).arg("axes", [-1]).arg("epsilon", 1e-12).done().expect("a norm");
        let large = op(f, "mul", &y, floats(&[], &[1e5]));
        let y = op(f, "real_div", &large, floats(&[], &[1e5]));
        let y = f.op("elu").arg("x", &y).arg("alpha", 0.7).done().expect("elu");
        let whole = f.op("cast").arg("x", &y).arg("dtype", "int32").done().expect("whole");
        let z = f.op("cast").arg("x", &whole).arg("dtype", "fp32").done().expect("floats");
        let z = f.op("add").arg("x", &z).arg("y", &y).done().expect("a sum");
        let mask = constant(f, floats(&[1, 2], &[0.0, -3e38]));
        let pair = f.op("slice_by_size").arg("x", &z).arg("begin", [0, 0]).arg("size", [2, 2]).done().expect("a pair");
        let pair = f.op("add").arg("x", &pair).arg("y", &mask).done().expect("masked");
        let pair = f.op("softmax").arg("x", &pair).arg("axis", -1).done().expect("shares");
        let less = f.op("greater").arg("x", &pair).arg("y", &tiny).done().expect("a test");
        let less = f.op("cast").arg("x", &less).arg("dtype", "fp32").done().expect("0 or 1");
        vec![z, pair, less, y]
    };
    for (opset, features, alpha) in
        [(Opset::Ios15, false, F16), (Opset::Ios16, true, F16), (Opset::Ios18, false, F32), (Opset::Ios17, true, F32)]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let before = model(folder.path(), opset, &[2, 4], build);
        let half = Half { features, keep: vec![] };
        let (after, report) = rewritten(&before, Passes { half: Some(half), ..Passes::default() }).expect("rewritten");
        close(&results(&after, &[2, 4]), &results(&before, &[2, 4]), 4e-3, "fp16");
        let kept: Vec<&str> = report.kept.iter().map(|k| k.kind.as_str()).collect();
        assert_eq!(kept, ["mul", "real_div"]);
        assert!(report.kept[0].reason.contains("beyond fp16"), "{:?}", report.kept);
        let program = after.body.program().expect("a program");
        let main = &program.functions["main"];
        let io = if features { F16 } else { F32 };
        assert_eq!(main.inputs[0].ty.tensor().expect("a tensor").dtype, io);
        for output in &after.description.functions["main"].outputs {
            let made = main.block.operations.iter().flat_map(|o| &o.outputs).find(|o| o.name == output.name);
            assert_eq!(made.expect("made").ty.tensor().expect("a tensor").dtype, io, "{}", output.name);
            assert!(
                matches!(output.ty, coreml_format::description::FeatureType::MultiArray { dtype, .. } if dtype == io)
            );
        }
        let of = |kind: &str| main.block.operations.iter().find(|o| o.kind == kind).expect("an operation").clone();
        let dtype = |name: &str| {
            let made = main.block.operations.iter().flat_map(|o| &o.outputs).find(|o| o.name == name);
            made.and_then(|o| o.ty.tensor()).expect("a tensor").dtype
        };
        let argument = |kind: &str, parameter: &str| match &of(kind).inputs[parameter] {
            coreml_format::program::Argument::One(coreml_format::program::Binding::Name(name)) => name.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((dtype(&argument("elu", "alpha")), dtype(&argument("linear", "weight"))), (alpha, F16));
        // 1e-9 and 1e-12 are the smallest number of fp16, not zero.
        let epsilon = argument("layer_norm", "epsilon");
        let value = main.block.operations.iter().find(|o| o.outputs.iter().any(|o| o.name == epsilon)).expect("made");
        assert_eq!(value.attributes["val"], Value::tensor(F16, &[], vec![1, 0]));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 2);
    }
}

#[test]
fn what_fp16_can_not_do_is_refused_by_name() {
    let build: Build = |f, x| vec![f.op("exp").arg("x", x).named("e").done().expect("e")];
    let folder = tempfile::tempdir().expect("a folder");
    let before = model(folder.path(), Opset::Ios15, &[2], build);
    let of = |half: Half| rewritten(&before, Passes { half: Some(half), ..Passes::default() });
    let error = of(Half { features: true, keep: vec![] }).expect_err("too old");
    assert!(error.contains("function `main`") && error.contains("ios16") && error.contains("ios15"), "{error}");
    let error = of(Half { features: false, keep: vec!["tanh".to_owned()] }).expect_err("unknown");
    assert!(error.contains("`tanh`"), "{error}");
    let (after, report) = of(Half { features: false, keep: vec!["exp".to_owned()] }).expect("kept");
    assert_eq!((kinds(&after), report.halved, report.kept.len()), (vec!["exp".to_owned()], 0, 1));
}

/// Compressed weights keep their form: tables and scales become fp16.
#[test]
fn compressed_weights_become_fp16_as_they_are() {
    for opset in [Opset::Ios16, Opset::Ios18] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("before.mlpackage");
        let mut package = PackageBuilder::create(&path).expect("a package");
        let mut f = FunctionBuilder::new(opset);
        let x = f.input("x", F32, [2, 4]).expect("an input");
        let q = f
            .constant("q", Value::tensor(DataType::I8, &[4, 4], (0..16).map(|i| (i * 7 - 60) as u8).collect()))
            .expect("q");
        let mut y = x.clone();
        // The second one decodes to numbers beyond fp16, as its product does, and keeps fp32.
        for (i, scale) in [0.01f32, 1e4].into_iter().enumerate() {
            let scale = f.constant(&format!("scale{i}"), floats(&[4], &[scale; 4])).expect("a scale");
            let zero =
                f.constant(&format!("zero{i}"), Value::tensor(DataType::I8, &[4], vec![1, 2, 3, 4])).expect("zero");
            let w = f.op("constexpr_affine_dequantize").named(&format!("w{i}")).arg("quantized_data", &q);
            let w = w.arg("zero_point", &zero).arg("scale", &scale).arg("axis", 0).done().expect("a weight");
            y = f.op("linear").named(&format!("p{i}")).arg("x", &y).arg("weight", &w).done().expect("a product");
        }
        let y = op(&mut f, "mul", &y, floats(&[], &[1e-4]));
        f.output("y0", &y).expect("an output");
        package.add("main", f).expect("a function");
        package.finish().expect("written");
        let before = Model::open(&path).expect("a model");
        // What makes numbers beyond fp16 is followed by one that keeps fp32, too.
        let half = Half { features: false, keep: vec!["mul".to_owned()] };
        let passes = Passes { half: Some(half), ..Passes::usual() };
        let (after, report) = rewritten(&before, passes).expect("rewritten");
        close(&results(&after, &[2, 4]), &results(&before, &[2, 4]), 4e-3, "compressed");
        let kept: Vec<&str> = report.kept.iter().map(|k| k.kind.as_str()).collect();
        assert_eq!(kept, ["constexpr_affine_dequantize", "linear", "mul"], "{:?}", report.kept);
        let program = after.body.program().expect("a program");
        let weights: Vec<_> = program.functions["main"]
            .block
            .operations
            .iter()
            .filter(|o| o.kind == "constexpr_affine_dequantize")
            .map(|o| o.outputs[0].ty.tensor().expect("a tensor").dtype)
            .collect();
        assert_eq!(weights, [F16, F32]);
    }
}
