//! Fuzz target `engine`: runs MIL text. Any outcome is accepted except a panic, a hang or unbounded memory. Mutations
//! work on the parsed program, so that most inputs reach the operations.
//!
//! `coreml-engine`'s tests replay the corpus with the same function.

use candle_core::{DType, Device, Tensor};
use coreml_engine::backend::Backend;
use coreml_engine::{Executable, Limits, Options};
use coreml_format::dtype::DataType;
use coreml_format::mil_text;
use coreml_format::program::{
    Argument, Binding, Dim, Function, Opset, Program, TensorData, TensorType, Value, ValueData, ValueType,
};
use coreml_format::verify::verify;
use coreml_format::weights::Weights;

/// Maximum number of elements of an input.
const INPUT: usize = 1 << 12;

/// Loads the first function of a program and runs it on small numbers.
pub fn run(bytes: &[u8]) {
    let Some(program) = read(bytes) else { return };
    if verify(&program).is_err() {
        return;
    }
    let Some(name) = program.functions.keys().next().cloned() else { return };
    let limits = Limits { rounds: 1 << 8, memory: 1 << 26, operation_work: 1 << 28, loop_work: 1 << 28 };
    // Internal operations are accepted as written.
    let options = Options { limits, internal_ops: true, ..Options::default() };
    let Ok(executable) = Executable::load(&program, &Weights::default(), &name, &options) else { return };
    let mut inputs = Vec::new();
    for input in executable.inputs() {
        let Some(tensor) = input.ty.tensor().and_then(numbers) else { return };
        inputs.push((input.name.as_str(), tensor));
    }
    let small = |n: usize| n <= INPUT;
    if !executable.states().iter().all(|s| s.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some_and(small))
    {
        return;
    }
    let Ok(mut state) = executable.new_state() else { return };
    let _ = executable.predict(&inputs, Some(&mut state));
}

fn read(bytes: &[u8]) -> Option<Program> {
    mil_text::parse(std::str::from_utf8(bytes).ok()?).ok()
}

/// Cycles through −2, −1.5, −1 … 3 in the shape of a type; unknown extents are 2.
fn numbers(ty: &TensorType) -> Option<Tensor> {
    let shape: Vec<usize> = ty.shape.iter().map(|d| d.fixed().unwrap_or(2)).collect();
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= INPUT)?;
    let values: Vec<f32> = (0..count).map(|i| (i % 11) as f32 * 0.5 - 2.0).collect();
    let dtype = if ty.dtype.is_float() { DType::F32 } else { DType::I64 };
    Tensor::from_vec(values, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype)).ok()
}

/// Random numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.roll(from.len());
        from.get(index)
    }
}

const INTS: &[i64] = &[
    0,
    1,
    -1,
    2,
    -2,
    3,
    4,
    5,
    7,
    8,
    -9,
    16,
    100,
    255,
    256,
    65535,
    65536,
    i32::MAX as i64,
    i32::MIN as i64,
    i64::MAX,
    i64::MIN,
];
const FLOATS: &[f32] =
    &[0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e30, -1e30, 1e-40, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
const EXTENTS: &[usize] = &[0, 1, 2, 3, 4, 5, 8, 17, 100];
const DTYPES: &[DataType] = &[
    DataType::F32,
    DataType::F16,
    DataType::I32,
    DataType::Bool,
    DataType::U8,
    DataType::I8,
    DataType::U16,
    DataType::I64,
];

/// Mutates the program in `data`, possibly to the same bytes; returns its length, 0 if there is none.
pub fn mutate(data: &mut [u8], size: usize, seed: u32) -> usize {
    let Some(mut program) = data.get(..size).and_then(read) else { return 0 };
    let mut dice = Dice(u64::from(seed) << 1 | 1);
    for _ in 0..=dice.roll(3) {
        let which = dice.roll(program.functions.len());
        if let Some((_, function)) = program.functions.get_index_mut(which) {
            change(function, &mut dice);
        }
    }
    let text = mil_text::print(&program);
    let Some(room) = data.get_mut(..text.len()) else { return 0 };
    room.copy_from_slice(text.as_bytes());
    text.len()
}

fn change(function: &mut Function, dice: &mut Dice) {
    let mut names: Vec<String> = function.inputs.iter().map(|i| i.name.clone()).collect();
    let mut strings = Vec::new();
    for op in &function.block.operations {
        names.extend(op.outputs.iter().map(|o| o.name.clone()));
        let values = op.inputs.values().flat_map(Argument::bindings).filter_map(|b| match b {
            Binding::Value(v) => Some(v),
            Binding::Name(_) => None,
        });
        for value in values.chain(op.attributes.values()) {
            if let ValueData::Tensor(TensorData::Strings(s)) = &value.data {
                strings.extend(s.iter().cloned());
            }
        }
    }
    if dice.roll(12) == 0 {
        let opsets = [Opset::Ios15, Opset::Ios16, Opset::Ios17, Opset::Ios18];
        function.opset = *dice.pick(&opsets).unwrap_or(&function.opset);
        return;
    }
    if dice.roll(4) == 0 && !function.inputs.is_empty() {
        let which = dice.roll(function.inputs.len());
        retype(&mut function.inputs[which].ty, dice);
        return;
    }
    let Some(which) = function.block.operations.len().checked_sub(1).map(|n| dice.roll(n + 1)) else { return };
    let op = &mut function.block.operations[which];
    match dice.roll(10) {
        0 if !op.outputs.is_empty() => {
            let output = dice.roll(op.outputs.len());
            retype(&mut op.outputs[output].ty, dice);
        }
        1 if !op.inputs.is_empty() => drop(op.inputs.shift_remove_index(dice.roll(op.inputs.len()))),
        2 => {
            let all: Vec<&str> = Backend::cpu().operations().map(|o| o.name).collect();
            op.kind = dice.pick(&all).map_or_else(|| op.kind.clone(), |k| (*k).to_owned());
        }
        3 | 4 if !op.inputs.is_empty() => {
            let parameter = dice.roll(op.inputs.len());
            let Some(name) = dice.pick(&names) else { return };
            let bound = Binding::Name(name.clone());
            match &mut op.inputs[parameter] {
                Argument::One(b) => *b = bound,
                Argument::Many(all) if all.len() < 4 => all.push(bound),
                Argument::Many(all) => drop(all.pop()),
            }
        }
        _ => {
            let inputs = op.inputs.values_mut().flat_map(|a| match a {
                Argument::One(b) => std::slice::from_mut(b),
                Argument::Many(all) => all.as_mut_slice(),
            });
            let literals = inputs.filter_map(|b| match b {
                Binding::Value(v) => Some(v),
                Binding::Name(_) => None,
            });
            let mut literals: Vec<&mut Value> = literals.chain(op.attributes.values_mut()).collect();
            let which = dice.roll(literals.len());
            if let Some(value) = literals.get_mut(which) {
                replace(value, &strings, dice);
            }
        }
    }
}

fn retype(ty: &mut ValueType, dice: &mut Dice) {
    let ValueType::Tensor(tensor) = ty else { return };
    match dice.roll(4) {
        0 => tensor.dtype = *dice.pick(DTYPES).unwrap_or(&tensor.dtype),
        1 => drop(tensor.shape.pop()),
        2 if tensor.shape.len() < 6 => tensor.shape.push(Dim::Fixed(*dice.pick(EXTENTS).unwrap_or(&1))),
        _ => {
            let which = dice.roll(tensor.shape.len());
            if let Some(extent) = tensor.shape.get_mut(which) {
                *extent = Dim::Fixed(*dice.pick(EXTENTS).unwrap_or(&1));
            }
        }
    }
}

/// Replaces one or all elements, or the shape.
fn replace(value: &mut Value, strings: &[String], dice: &mut Dice) {
    let (ValueType::Tensor(ty), ValueData::Tensor(data)) = (&mut value.ty, &mut value.data) else { return };
    let bytes = match data {
        TensorData::Strings(all) => {
            let which = dice.roll(all.len());
            if let (Some(text), Some(other)) = (all.get_mut(which), dice.pick(strings)) {
                text.clone_from(other);
            }
            return;
        }
        TensorData::Bytes(bytes) => bytes,
        TensorData::Blob(_) | TensorData::Shared(_) => return,
    };
    let Some(width) = ty.dtype.bits().filter(|b| b % 8 == 0).map(|b| b / 8) else { return };
    let element = |dice: &mut Dice| -> Vec<u8> {
        let int = *dice.pick(INTS).unwrap_or(&0);
        let float = *dice.pick(FLOATS).unwrap_or(&0.0);
        match ty.dtype {
            DataType::F16 => half::f16::from_f32(float).to_le_bytes().to_vec(),
            DataType::F32 => float.to_le_bytes().to_vec(),
            DataType::Bool => vec![u8::from(int % 2 == 0)],
            _ => int.to_le_bytes().into_iter().cycle().take(width).collect(),
        }
    };
    if dice.roll(4) == 0 {
        // A vector of another length, or a matrix.
        let length = dice.roll(7);
        *bytes = (0..length).flat_map(|_| element(dice)).collect();
        ty.shape = if dice.roll(8) == 0 { vec![Dim::Fixed(1), Dim::Fixed(length)] } else { vec![Dim::Fixed(length)] };
        return;
    }
    let count = bytes.len() / width.max(1);
    let (first, every) = (dice.roll(count), dice.roll(3) == 0);
    let other = element(dice);
    for (i, slot) in bytes.chunks_exact_mut(width.max(1)).enumerate() {
        if every || i == first {
            slot.copy_from_slice(&other);
        }
    }
}
