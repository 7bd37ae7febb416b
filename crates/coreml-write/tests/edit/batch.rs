//! Another batch: rows of the edited model are those of the model before, and what joins rows is refused by name.

use std::path::Path;

use coreml_engine::{Executable, Options};
use coreml_format::description::{FeatureType, ShapeConstraint};
use coreml_format::dtype::DataType::{F32, I32};
use coreml_format::model::Model;
use coreml_format::program::{Opset, TensorType, Value, ValueType};
use coreml_write::batch::{Batch, Extent};
use coreml_write::builder::{FunctionBuilder, PackageBuilder, Var, check};
use coreml_write::edit::{Changes, edit};

use super::passes::{Build, batch_norm, close, constant, conv, floats, model, op, positive, wave, waves};

const ROWS: usize = 6;

/// Results for some rows, one after the other.
fn run(model: &Model, row: &[usize], rows: std::ops::Range<usize>) -> Vec<Vec<f32>> {
    let program = model.body.program().expect("a program");
    let wrong = check(program);
    assert!(wrong.is_empty(), "{wrong:?}");
    let run = Executable::load(program, &model.weights, "main", &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let each: usize = row.iter().product();
    let all = wave(&[ROWS, each]);
    let shape: Vec<usize> = std::iter::once(rows.len()).chain(row.iter().copied()).collect();
    let x = all[rows.start * each..rows.end * each].to_vec();
    let x = candle_core::Tensor::from_vec(x, shape, &candle_core::Device::Cpu).expect("x");
    let out = run.predict(&[("x", x)], None).unwrap_or_else(|e| panic!("{e}"));
    let flat = |n: &String| {
        let flat = out[n].tensor().expect("a tensor").flatten_all().expect("flat");
        flat.to_dtype(candle_core::DType::F32).and_then(|t| t.to_vec1()).expect("numbers")
    };
    program.functions["main"].block.outputs.iter().map(flat).collect()
}

fn with(model: &Model, extent: Extent, to: &Path) -> Result<Model, String> {
    let batch = Some(Batch { extent, inputs: vec![] });
    edit(model, &Changes { batch, ..Changes::default() }, to).map_err(|e| e.to_string())?;
    Ok(Model::open(to).expect("a model"))
}

/// Four heads of two numbers: split, scores, shares, joined.
fn attention(f: &mut FunctionBuilder, x: &Var, batch: usize) -> Vec<Var> {
    let heads = |f: &mut FunctionBuilder, kind: usize| {
        let w = constant(f, floats(&[8, 8], &wave(&[64]).iter().map(|v| v + kind as f32).collect::<Vec<_>>()));
        let y = f.op("linear").arg("x", x).arg("weight", &w).done().expect("a product");
        let y = f.op("reshape").arg("x", &y).arg("shape", [batch, 3, 4, 2]).done().expect("heads");
        f.op("transpose").arg("x", &y).arg("perm", [0, 2, 1, 3]).done().expect("turned")
    };
    let (q, k, v) = (heads(f, 0), heads(f, 1), heads(f, 2));
    // Heads of all rows in one axis, as PyTorch's bmm has them.
    let merge = |f: &mut FunctionBuilder, t| {
        f.op("reshape").arg("x", t).arg("shape", [batch * 4, 3, 2]).done().expect("merged")
    };
    let (q, k, v) = (merge(f, &q), merge(f, &k), merge(f, &v));
    let scores = f.op("matmul").arg("x", &q).arg("y", &k).arg("transpose_y", true).done().expect("scores");
    let scores = op(f, "mul", &scores, floats(&[], &[0.1]));
    let shares = f.op("softmax").arg("x", &scores).arg("axis", -1).done().expect("shares");
    let y = f.op("matmul").arg("x", &shares).arg("y", &v).done().expect("mixed");
    let y = f.op("reshape").arg("x", &y).arg("shape", [batch, 4, 3, 2]).done().expect("split");
    let y = f.op("transpose").arg("x", &y).arg("perm", [0, 2, 1, 3]).done().expect("turned");
    vec![f.op("reshape").arg("x", &y).arg("shape", [batch, 3, 8]).done().expect("joined")]
}

#[test]
fn rows_of_another_batch_are_those_of_before() {
    let cases: [(&str, usize, &[usize], Build); 8] = [
        ("an image", 1, &[3, 6, 6], |f, x| {
            let y = conv(f, "conv", x, &[4, 3, 3, 3], 1);
            let y = batch_norm(f, &y, 4);
            let y = f.op("max_pool").arg("x", &y).arg("kernel_sizes", [2, 2]).arg("strides", [2, 2]);
            let y = y.arg("pad_type", "valid").done().expect("pooled");
            let y = f.op("reshape").arg("x", &y).arg("shape", [1, -1]).done().expect("flat");
            let w = constant(f, waves(&[5, 16]));
            let y = f.op("linear").arg("x", &y).arg("weight", &w).done().expect("a product");
            vec![f.op("softmax").arg("x", &y).arg("axis", 1).done().expect("shares")]
        }),
        ("attention", 1, &[3, 8], |f, x| attention(f, x, 1)),
        ("attention of two", 2, &[3, 8], |f, x| attention(f, x, 2)),
        ("slices, axes, look-ups", 1, &[4, 3], |f, x| {
            let a = f.op("slice_by_index").arg("x", x).arg("begin", [0, 0, 0]).arg("end", [1, 1, 3]);
            let a = a.arg("squeeze_mask", [false, true, false]).done().expect("first");
            let b = f
                .op("slice_by_size")
                .arg("x", x)
                .arg("begin", [0, 1, 0])
                .arg("size", [1, 1, 3])
                .done()
                .expect("second");
            let b = f.op("squeeze").arg("x", &b).arg("axes", [1]).done().expect("squeezed");
            let y = f.op("stack").arg("values", [&a, &b]).arg("axis", 0).done().expect("stacked");
            let y = f.op("transpose").arg("x", &y).arg("perm", [1, 2, 0]).done().expect("turned");
            let y = f.op("expand_dims").arg("x", &y).arg("axes", [-1]).done().expect("wide");
            let y = f.op("reduce_sum").arg("x", &y).arg("axes", [1]).arg("keep_dims", false).done().expect("a sum");
            let i = f.op("reduce_argmax").arg("x", x).arg("axis", 2).arg("keep_dims", false).done().expect("largest");
            let table = constant(f, waves(&[3, 2]));
            let t = f.op("gather").arg("x", &table).arg("indices", &i).arg("axis", 0).done().expect("rows");
            let t = f.op("tile").arg("x", &t).arg("reps", [1, 2, 1]).done().expect("twice");
            vec![y, t]
        }),
        ("constants with the old batch", 2, &[3], |f, x| {
            let y = op(f, "add", x, floats(&[2, 3], &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]));
            // Rows of six numbers in one axis.
            let t = f.op("tile").arg("x", &y).arg("reps", [1, 2]).done().expect("twice");
            let t = f.op("reshape").arg("x", &t).arg("shape", [12]).done().expect("flat");
            let t = f.op("reshape").arg("x", &t).arg("shape", [4, 3]).done().expect("rows");
            let y = op(f, "mul", &y, positive(3));
            vec![y, op(f, "mul", &t, positive(3))]
        }),
        ("a first token, pads", 1, &[2, 3], |f, x| {
            let token = constant(f, waves(&[1, 1, 3]));
            let y = f
                .op("concat")
                .arg("values", [&token, x])
                .arg("axis", 1)
                .arg("interleave", false)
                .done()
                .expect("joined");
            let y = f.op("pad").arg("x", &y).arg("pad", [1, 0, 0, 1]).arg("mode", "constant").arg("constant_val", 0.5);
            vec![y.done().expect("padded")]
        }),
        ("steps", 1, &[4, 3], |f, x| {
            let x = f.op("transpose").arg("x", x).arg("perm", [1, 0, 2]).done().expect("steps first");
            let (h, c) = (constant(f, floats(&[1, 2], &[0.1, 0.2])), constant(f, floats(&[1, 2], &[0.3, -0.2])));
            let (w, u) = (constant(f, waves(&[8, 3])), constant(f, waves(&[8, 2])));
            let ty = |shape: &[usize]| ValueType::Tensor(TensorType::fixed(F32, shape));
            let call = f.op("lstm").arg("x", &x).arg("initial_h", &h).arg("initial_c", &c);
            let call = call.arg("weight_ih", &w).arg("weight_hh", &u).arg("output_sequence", true);
            let all = call.typed(&[ty(&[4, 1, 2]), ty(&[1, 2]), ty(&[1, 2])]).all().expect("states");
            vec![f.op("transpose").arg("x", &all[0]).arg("perm", [1, 0, 2]).done().expect("rows first"), all[2].clone()]
        }),
        ("products from both sides", 1, &[3, 4], |f, x| {
            let w = constant(f, waves(&[2, 3]));
            let y = f.op("matmul").arg("x", &w).arg("y", x).done().expect("from the left");
            let z = f.op("matmul").arg("x", &y).arg("y", x).arg("transpose_y", true).done().expect("both");
            vec![z]
        }),
    ];
    for (name, old, row, build) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let shape: Vec<usize> = std::iter::once(old).chain(row.iter().copied()).collect();
        let before = model(folder.path(), Opset::Ios17, &shape, build);
        let mut wanted: Vec<Vec<f32>> = Vec::new();
        for start in (0..ROWS).step_by(old) {
            for (i, part) in run(&before, row, start..start + old).into_iter().enumerate() {
                match wanted.get_mut(i) {
                    Some(all) => all.extend(part),
                    None => wanted.push(part),
                }
            }
        }
        let fixed = with(&before, Extent::Fixed(ROWS), &folder.path().join("fixed.mlpackage"));
        let fixed = fixed.unwrap_or_else(|e| panic!("{name}: {e}"));
        close(&run(&fixed, row, 0..ROWS), &wanted, 1e-5, name);
        let FeatureType::MultiArray { shape, .. } = &fixed.description.functions["main"].inputs[0].ty else { panic!() };
        assert_eq!(shape[0], ROWS);
        let range = with(&before, Extent::Range(1, 8), &folder.path().join("range.mlpackage"));
        match (range, name) {
            (Err(e), "a first token, pads" | "steps") => assert!(e.contains("would need a row for each"), "{e}"),
            (Err(e), _) => panic!("{name}: {e}"),
            (Ok(range), _) => {
                close(&run(&range, row, 0..ROWS), &wanted, 1e-5, name);
                close(&run(&range, row, 0..old), &run(&before, row, 0..old), 1e-5, name);
                let FeatureType::MultiArray { constraint, shape, .. } =
                    &range.description.functions["main"].inputs[0].ty
                else {
                    panic!()
                };
                let ShapeConstraint::Ranges(all) = constraint else { panic!("{constraint:?}") };
                assert_eq!((all[0].min, all[0].max, shape[0]), (1, Some(8), old));
            }
        }
    }
}

#[test]
fn what_joins_rows_is_refused_by_name() {
    let cases: [(&str, usize, Build); 10] = [
        ("`softmax` (`s`): it works along the batch", 1, |f, x| {
            vec![f.op("softmax").named("s").arg("x", x).arg("axis", 0).done().expect("shares")]
        }),
        ("`reduce_mean` (`m`): it works along the batch", 2, |f, x| {
            vec![f.op("reduce_mean").named("m").arg("x", x).arg("keep_dims", true).done().expect("a mean")]
        }),
        ("`matmul` (`p`): it works along the batch", 1, |f, x| {
            vec![f.op("matmul").named("p").arg("x", x).arg("y", x).arg("transpose_y", true).done().expect("scores")]
        }),
        ("`reshape` (`r`): it joins the batch", 2, |f, x| {
            let y = f.op("transpose").arg("x", x).arg("perm", [1, 0]).done().expect("turned");
            vec![f.op("reshape").named("r").arg("x", &y).arg("shape", [8]).done().expect("flat")]
        }),
        ("`slice_by_index` (`i`): it takes some of the rows", 2, |f, x| {
            let y = f.op("slice_by_index").named("i").arg("x", x).arg("begin", [0, 0]).arg("end", [1, 4]);
            vec![y.done().expect("a row")]
        }),
        ("`squeeze` (`q`): it drops the batch", 1, |f, x| {
            vec![f.op("squeeze").named("q").arg("x", x).arg("axes", [0]).done().expect("squeezed")]
        }),
        ("`add` (`a`): parameter `y`: a constant has another row for each of the batch", 2, |f, x| {
            let c = constant(f, waves(&[2, 4]));
            vec![f.op("add").named("a").arg("x", x).arg("y", &c).done().expect("a sum")]
        }),
        ("`concat` (`c`): it works along the batch", 1, |f, x| {
            vec![
                f.op("concat")
                    .named("c")
                    .arg("values", [x, x])
                    .arg("axis", 0)
                    .arg("interleave", false)
                    .done()
                    .expect("joined"),
            ]
        }),
        ("`cond`", 1, |f, x| {
            let yes = f.constant("yes", Value::bool(true)).expect("a constant");
            f.cond(&yes, |f| Ok(vec![f.op("exp").arg("x", x).done()?]), |f| Ok(vec![f.op("abs").arg("x", x).done()?]))
                .expect("a branch")
        }),
        ("`non_zero` (`n`): it is not known", 1, |f, x| {
            let n = f.op("non_zero").named("n").arg("x", x).done().expect("places");
            vec![f.op("cast").arg("x", &n).arg("dtype", "int32").done().expect("numbers")]
        }),
    ];
    for (part, old, build) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let before = model(folder.path(), Opset::Ios17, &[old, 4], build);
        let to = folder.path().join("new.mlpackage");
        for extent in [Extent::Fixed(3), Extent::Range(1, 5)] {
            let error = with(&before, extent, &to).err().unwrap_or_else(|| panic!("{part}"));
            assert!(error.contains(part) && error.contains("function `main`"), "expected {part}: {error}");
            assert!(!to.exists());
        }
    }
}

#[test]
fn inputs_of_other_extents_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("before.mlpackage");
    let mut package = PackageBuilder::create(&path).expect("a package");
    let mut f = FunctionBuilder::new(Opset::Ios17);
    let (x, p) = (f.input("x", F32, [1, 4]).expect("an input"), f.input("p", I32, [2]).expect("an input"));
    let y = f.op("gather").arg("x", &x).arg("indices", &p).arg("axis", 1).done().expect("picked");
    f.output("y", &y).expect("an output");
    package.add("main", f).expect("a function");
    package.finish().expect("written");
    let before = Model::open(&path).expect("a model");
    let to = folder.path().join("new.mlpackage");
    let error = with(&before, Extent::Fixed(3), &to).expect_err("two extents");
    assert!(error.contains("found x 1, p 2"), "{error}");
    let of = |inputs: &[&str]| {
        let inputs = inputs.iter().map(|&s| s.to_owned()).collect();
        let batch = Some(Batch { extent: Extent::Fixed(3), inputs });
        edit(&before, &Changes { batch, ..Changes::default() }, &to).map_err(|e| e.to_string())
    };
    assert!(of(&["z"]).expect_err("unknown").contains("no function with inputs z"));
    of(&["x"]).expect("rows of x");
    let after = Model::open(&to).expect("a model");
    let FeatureType::MultiArray { shape, .. } = &after.description.functions["main"].outputs[0].ty else { panic!() };
    assert_eq!(shape, &[3, 2]);
    for (text, extent) in [
        ("4", Ok(Extent::Fixed(4))),
        ("1..8", Ok(Extent::Range(1, 8))),
        ("0", Err(())),
        ("8..8", Err(())),
        ("a", Err(())),
    ] {
        assert_eq!(text.parse::<Extent>().map_err(drop), extent, "{text}");
    }
}
