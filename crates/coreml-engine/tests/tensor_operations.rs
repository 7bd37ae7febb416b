//! Concatenation, padding, contraction and suppression: forms used by few models, with results derived by hand from the
//! definitions.

use candle_core::{Device, Tensor};
use coreml_engine::{EngineError, Executable, FeatureValue, Options};
use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Function, NamedType, Operation, Opset, Program, TensorType, Value, ValueType,
};
use coreml_format::weights::Weights;

const F32: DataType = DataType::F32;

fn named(name: &str, dtype: DataType, shape: &[usize]) -> NamedType {
    NamedType { name: name.to_owned(), ty: ValueType::Tensor(TensorType::fixed(dtype, shape)) }
}

fn f32s(shape: &[usize], values: &[f32]) -> Value {
    Value::tensor(F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn input(name: &str) -> Argument {
    Argument::One(Binding::Name(name.to_owned()))
}

fn literal(value: Value) -> Argument {
    Argument::One(Binding::Value(value))
}

/// Runs a function of one operation; returns its results as flat f32 with their shapes.
fn run(
    (opset, kind): (Opset, &str),
    tensors: &[(&str, &[usize], &[f32])],
    arguments: &[(&str, Argument)],
    outputs: Vec<NamedType>,
) -> Result<Vec<(Vec<usize>, Vec<f32>)>, EngineError> {
    let operation = Operation {
        kind: kind.to_owned(),
        name: kind.to_owned(),
        inputs: arguments.iter().map(|(n, a)| ((*n).to_owned(), a.clone())).collect(),
        blocks: Vec::new(),
        attributes: Default::default(),
        outputs: outputs.clone(),
    };
    let function = Function {
        opset,
        inputs: tensors.iter().map(|(n, shape, _)| named(n, F32, shape)).collect(),
        block: Block {
            inputs: Vec::new(),
            operations: vec![operation],
            outputs: outputs.iter().map(|o| o.name.clone()).collect(),
        },
        attributes: Default::default(),
    };
    let mut program = Program::default();
    program.functions.insert("main".to_owned(), function);
    let executable = Executable::load(&program, &Weights::default(), "main", &Options::default())?;
    let inputs: Vec<(&str, Tensor)> = tensors
        .iter()
        .map(|(n, shape, data)| (*n, Tensor::from_slice(data, *shape, &Device::Cpu).expect("a tensor")))
        .collect();
    let results = executable.predict(&inputs, None)?;
    Ok(results
        .values()
        .map(|o| {
            let FeatureValue::Tensor(t) = o else { panic!("{o:?} is not a tensor") };
            let flat = t.to_dtype(candle_core::DType::F32).and_then(|t| t.flatten_all());
            (t.dims().to_vec(), flat.and_then(|t| t.to_vec1()).expect("elements"))
        })
        .collect())
}

/// Boxes 0 and 1 overlap by 3/5, box 2 is apart; scores 0.5, 0.9, −2.
#[test]
fn suppression_since_ios17_has_the_boxes_last_and_no_score_threshold() {
    let boxes = [0., 1., 9., 0., 0., 9., 4., 4., 1., 2., 2., 1.];
    let scores = [0.5, 0.9, -2.];
    let found = run(
        (Opset::Ios17, "non_maximum_suppression"),
        &[("boxes", &[1, 4, 3], &boxes), ("scores", &[1, 1, 3], &scores)],
        &[
            ("boxes", input("boxes")),
            ("scores", input("scores")),
            ("iou_threshold", literal(f32s(&[], &[0.5]))),
            ("max_boxes", literal(Value::int(3))),
        ],
        vec![named("b", F32, &[1, 4, 3]), named("s", F32, &[1, 1, 3]), named("i", DataType::I32, &[1, 3])],
    )
    .expect("runs");
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], (vec![1, 4, 3], vec![1., 9., 0., 0., 9., 0., 4., 1., 0., 2., 1., 0.]));
    assert_eq!(found[1], (vec![1, 1, 3], vec![0.9, -2., 0.]));
    assert_eq!(found[2], (vec![1, 3], vec![1., 2., -1.]));
}

#[test]
fn suppression_before_ios17_rejects_low_scores_and_counts_the_boxes() {
    let boxes = [0., 0., 4., 2., 1., 0., 4., 2., 9., 9., 1., 1.];
    let found = run(
        (Opset::Ios15, "non_maximum_suppression"),
        &[("boxes", &[1, 3, 4], &boxes), ("scores", &[1, 3, 1], &[0.5, 0.9, -2.])],
        &[
            ("boxes", input("boxes")),
            ("scores", input("scores")),
            ("iou_threshold", literal(f32s(&[], &[0.5]))),
            ("score_threshold", literal(f32s(&[], &[0.1]))),
            ("max_boxes", literal(Value::int(2))),
        ],
        vec![
            named("b", F32, &[1, 2, 4]),
            named("s", F32, &[1, 2, 1]),
            named("i", DataType::I32, &[1, 2]),
            named("n", DataType::I32, &[1]),
        ],
    )
    .expect("runs");
    assert_eq!(found[0], (vec![1, 2, 4], vec![1., 0., 4., 2., 0., 0., 0., 0.]));
    assert_eq!(found[2].1, [1., -1.]);
    assert_eq!(found[3], (vec![1], vec![1.]));
}

fn concat(tensors: &[(&str, &[usize], &[f32])], shape: &[usize]) -> Result<Vec<(Vec<usize>, Vec<f32>)>, EngineError> {
    let values = tensors.iter().map(|(n, ..)| Binding::Name((*n).to_owned())).collect();
    let arguments = [("values", Argument::Many(values)), ("axis", literal(Value::int(0)))];
    run((Opset::Ios15, "concat"), tensors, &arguments, vec![named("y", F32, shape)])
}

#[test]
fn scalars_join_to_a_vector() {
    let found = concat(&[("a", &[], &[3.]), ("b", &[], &[5.])], &[2]).expect("runs");
    assert_eq!(found, [(vec![2], vec![3., 5.])]);
    let found = concat(&[("a", &[0], &[]), ("b", &[1], &[5.])], &[1]).expect("runs");
    assert_eq!(found, [(vec![1], vec![5.])]);
    assert!(concat(&[("a", &[], &[3.]), ("b", &[1], &[5.])], &[2]).is_err(), "ranks differ");
}

fn pad(length: usize, mode: &str, amounts: &[i32]) -> Result<Vec<(Vec<usize>, Vec<f32>)>, EngineError> {
    let data: Vec<f32> = (0..length).map(|v| v as f32).collect();
    let arguments = [("x", input("x")), ("pad", literal(Value::ints(amounts))), ("mode", literal(Value::string(mode)))];
    let y = NamedType {
        name: "y".to_owned(),
        ty: ValueType::Tensor(TensorType { dtype: F32, shape: vec![coreml_format::program::Dim::Unknown] }),
    };
    run((Opset::Ios15, "pad"), &[("x", &[length], &data)], &arguments, vec![y])
}

#[test]
fn padding_replicates_edges_and_rejects_what_has_none() {
    assert_eq!(pad(2, "replicate", &[1, 2]).expect("runs"), [(vec![5], vec![0., 0., 1., 1., 1.])]);
    assert!(pad(0, "replicate", &[1, 1]).is_err());
    assert!(pad(2, "constant", &[i32::MAX, i32::MAX]).is_err());
    assert!(pad(2, "constant", &[i32::MIN, 0]).is_err());
}

/// Σ_w x[c, h, w] · y[w, h, u] where y has one h for both of x's.
#[test]
fn einsum_spreads_a_batch_extent_of_one() {
    let found = run(
        (Opset::Ios15, "einsum"),
        &[("x", &[1, 2, 2], &[1., 2., 3., 4.]), ("y", &[2, 1, 1], &[10., 100.])],
        &[
            ("values", Argument::Many(vec![Binding::Name("x".to_owned()), Binding::Name("y".to_owned())])),
            ("equation", literal(Value::string("chw,whr->chr"))),
        ],
        vec![named("z", F32, &[1, 2, 1])],
    )
    .expect("runs");
    assert_eq!(found, [(vec![1, 2, 1], vec![210., 430.])]);
}

/// PyTorch 2.7: `interpolate(…, mode="bilinear", align_corners=False, recompute_scale_factor=True)`.
#[test]
fn a_scale_that_splits_elements_is_that_of_the_sizes() {
    for (scale, want) in [
        (0.7, &[1.0 / 3.0, 4.0, 41.0 / 3.0][..]),
        (1.5, &[0.0, 0.571_428_6, 1.857_143_2, 4.0, 7.571_429_3, 12.0, 16.0]),
    ] {
        let found = run(
            (Opset::Ios15, "upsample_bilinear"),
            &[("x", &[1, 1, 1, 5], &[0., 1., 4., 9., 16.])],
            &[
                ("x", input("x")),
                ("scale_factor_width", literal(f32s(&[], &[scale]))),
                ("align_corners", literal(Value::bool(false))),
            ],
            vec![named("y", F32, &[1, 1, 1, want.len()])],
        )
        .expect("runs");
        assert!(found[0].1.iter().zip(want).all(|(f, w)| (f - w).abs() < 1e-5), "{scale}: {found:?}");
    }
}
