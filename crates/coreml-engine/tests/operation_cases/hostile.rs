//! Hostile parameters: replaces each constant of each case in turn. The outcome may be a result or an error, never a
//! panic; time and memory are bounded because shapes are.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::{DType, Device, Tensor};
use coreml_engine::{Executable, Options};
use coreml_format::dtype::DataType;
use coreml_format::mil_text;
use coreml_format::program::{
    Argument, Binding, Operation, Program, TensorData, TensorType, Value, ValueData, ValueType,
};
use coreml_format::weights::Weights;

use crate::cases::{Case, all};

/// Replacement values for a literal.
fn others(value: &Value) -> Vec<Value> {
    let (ValueType::Tensor(ty), ValueData::Tensor(data)) = (&value.ty, &value.data) else { return Vec::new() };
    let Some(shape) = ty.fixed_shape() else { return Vec::new() };
    let same = |data: TensorData| Value { ty: value.ty.clone(), data: ValueData::Tensor(data) };
    let mut all = Vec::new();
    match data {
        TensorData::Strings(_) => {
            all.push(same(TensorData::Strings(vec!["nonsense".to_owned(); shape.iter().product()])))
        }
        TensorData::Bytes(bytes) => {
            if ty.dtype == DataType::I32 {
                for n in [0, 1, -1, 2, 7, -9, i32::MAX, i32::MIN] {
                    let every: Vec<u8> = bytes.chunks(4).flat_map(|_| n.to_le_bytes()).collect();
                    all.push(same(TensorData::Bytes(every)));
                    if bytes.len() > 4 {
                        let mut first = bytes.clone();
                        first[..4].copy_from_slice(&n.to_le_bytes());
                        all.push(same(TensorData::Bytes(first)));
                    }
                }
            } else {
                for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                    all.push(same(TensorData::Bytes(vec![byte; bytes.len()])));
                }
            }
            // Another rank, extent or type.
            if let Some((&first, rest)) = shape.split_first() {
                let per = bytes.len() / first.max(1);
                let reshaped = |shape: Vec<usize>, bytes: Vec<u8>| Value::tensor(ty.dtype, &shape, bytes);
                if ty.dtype.bits().is_some_and(|b| b % 8 == 0) && first > 0 {
                    all.push(reshaped([&[first - 1], rest].concat(), bytes[..per * (first - 1)].to_vec()));
                    all.push(reshaped([&[0], rest].concat(), Vec::new()));
                    all.push(reshaped([&[1], shape.as_slice()].concat(), bytes.clone()));
                    all.push(reshaped([&[first + 1], rest].concat(), [bytes.as_slice(), &bytes[..per]].concat()));
                }
            }
            all.push(Value {
                ty: ValueType::Tensor(TensorType::fixed(DataType::Bool, &[])),
                data: ValueData::Tensor(TensorData::Bytes(vec![1])),
            });
            all.push(Value::string("x"));
        }
        TensorData::Blob(_) | TensorData::Shared(_) => {}
    }
    all
}

/// Replaces each literal of an operation in turn by each alternative, and omits each parameter.
fn mutations(op: &Operation) -> Vec<Operation> {
    let mut all = Vec::new();
    let mut keep = |change: &dyn Fn(&mut Operation)| {
        let mut changed = op.clone();
        change(&mut changed);
        all.push(changed);
    };
    for (name, argument) in &op.inputs {
        keep(&|o| drop(o.inputs.shift_remove(name)));
        for (i, binding) in argument.bindings().iter().enumerate() {
            let Binding::Value(value) = binding else { continue };
            for other in others(value) {
                keep(&|o| match &mut o.inputs[name.as_str()] {
                    Argument::One(b) => *b = Binding::Value(other.clone()),
                    Argument::Many(b) => b[i] = Binding::Value(other.clone()),
                });
            }
        }
    }
    for (name, value) in &op.attributes {
        keep(&|o| drop(o.attributes.shift_remove(name)));
        for other in others(value) {
            keep(&|o| drop(o.attributes.insert(name.clone(), other.clone())));
        }
    }
    keep(&|o| drop(o.outputs.pop()));
    keep(&|o| o.blocks.clear());
    all
}

fn attempt(program: &Program, inputs: &[(String, Tensor)]) -> Result<(), String> {
    let executable =
        Executable::load(program, &Weights::default(), "main", &Options::default()).map_err(|e| e.to_string())?;
    let mut state = executable.new_state().map_err(|e| e.to_string())?;
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    executable.predict(&inputs, Some(&mut state)).map(drop).map_err(|e| e.to_string())
}

/// A mutated program with its inputs.
type Attempt = (Program, Vec<(String, Tensor)>);

/// Inputs with another element type, rank, extent or value than expected.
fn other_inputs(case: &Case) -> Vec<Attempt> {
    let mut all = Vec::new();
    for (at, (name, tensor)) in case.inputs.iter().enumerate() {
        let dims = tensor.dims();
        let mut others: Vec<Tensor> = vec![tensor.unsqueeze(0).expect("one more dimension")];
        if let Some((&first, rest)) = dims.split_first() {
            others.push(tensor.flatten_all().expect("flat"));
            if first > 0 {
                others.push(tensor.get(0).expect("a part"));
                others.push(Tensor::cat(&[tensor, tensor], 0).expect("twice"));
            }
            others.push(Tensor::zeros([&[0], rest].concat(), tensor.dtype(), &Device::Cpu).expect("empty"));
            others.push(Tensor::zeros(vec![1; dims.len()], tensor.dtype(), &Device::Cpu).expect("ones"));
        }
        let far = |v: f64| tensor.zeros_like().and_then(|t| t.affine(1.0, v)).expect("values");
        others.extend([-1000.0, 1000.0].map(far));
        let declared = |dtype: DataType, tensor: Tensor| {
            let mut program = case.program.clone();
            let inputs = &mut program.functions["main"].inputs;
            if let Some(input) = inputs.iter_mut().find(|i| i.name == *name) {
                input.ty = ValueType::Tensor(TensorType::fixed(dtype, tensor.dims()));
            }
            let mut given = case.inputs.clone();
            given[at].1 = tensor;
            (program, given)
        };
        let own = case.program.functions["main"].inputs.iter().find(|i| i.name == *name);
        let own = own.and_then(|i| i.ty.tensor()).map_or(DataType::F32, |t| t.dtype);
        all.extend(others.into_iter().map(|t| declared(own, t)));
        let small = tensor.abs().and_then(|t| t.to_dtype(DType::U8)).expect("bytes");
        all.extend(
            [DataType::Bool, DataType::I32, DataType::F32, DataType::U8, DataType::F16]
                .map(|d| declared(d, small.clone())),
        );
    }
    all
}

fn attempts(case: &Case) -> Vec<Attempt> {
    let mut all = other_inputs(case);
    for (at, op) in case.program.functions["main"].block.operations.iter().enumerate() {
        for changed in mutations(op) {
            let mut program = case.program.clone();
            program.functions["main"].block.operations[at] = changed;
            all.push((program, case.inputs.clone()));
        }
    }
    all
}

#[test]
fn no_parameter_and_no_input_makes_an_operation_panic() {
    let mut panics = Vec::new();
    // fp16 takes the same paths; ranges may legitimately be long, and loops run up to their limit.
    let lasting = |c: &&Case| ["fp16", "range_1d", "while_loop"].iter().any(|part| c.name.contains(part));
    for case in all().iter().filter(|c| !lasting(c)) {
        for (program, inputs) in attempts(case) {
            let tried = catch_unwind(AssertUnwindSafe(|| attempt(&program, &inputs)));
            if tried.is_err() {
                panics.push(format!("{}:\n{}", case.name, mil_text::print(&program)));
            }
        }
    }
    assert!(panics.is_empty(), "{} panics\n{}", panics.len(), panics.join("\n"));
}
