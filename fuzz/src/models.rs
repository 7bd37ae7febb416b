//! Fuzz target `models`: specifications of every type, lowered, planned and run. Any outcome is accepted except a panic, a hang,
//! unbounded memory, and rows that differ when they are predicted together.
//!
//! `coreml-engine`'s tests replay it on the models of `conformance`, with mutations of their fields ([`wire`](crate::wire)).

use std::borrow::Cow;

use candle_core::{DType, Device, Tensor};
use coreml_engine::{DictionaryKey, Executable, FeatureValue, Limits, Options};
use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::model_types::Bytes;
use coreml_format::program::ValueType;
use coreml_format::spec::{self, Specification};
use coreml_format::weights::Weights;

/// Maximum number of elements of an input.
const INPUT: usize = 1 << 12;

/// Decodes, lowers, loads, and predicts on small values: one row, then three at once.
pub fn run(bytes: &[u8]) {
    let Ok(Specification { description, body, parts }) = spec::decode(&Bytes::copy_from_slice(bytes)) else { return };
    let model = Model { path: "fuzzed".into(), description, body, parts, weights: Weights::default() };
    let Ok(program) = coreml_lower::lower(&model) else { return };
    let limits = Limits { rounds: 1 << 8, memory: 1 << 26, operation_work: 1 << 28, loop_work: 1 << 28 };
    let options = Options { limits, lowered: true, ..Options::default() };
    let Some(name) = program.functions.keys().next() else { return };
    let Ok(executable) = Executable::load(&program, &Weights::default(), name, &options) else { return };
    let row = |seed: usize| -> Option<Vec<FeatureValue>> {
        executable.inputs().iter().enumerate().map(|(i, input)| value(&input.ty, seed + i)).collect()
    };
    let Some(rows) = (0..3).map(|i| row(i * 5)).collect::<Option<Vec<_>>>() else { return };
    if !executable.states().is_empty() {
        return;
    }
    let names = || executable.inputs().iter().map(|i| i.name.as_str());
    let alone = |row: &Vec<FeatureValue>| {
        let inputs: Vec<(&str, FeatureValue)> = names().zip(row.iter().cloned()).collect();
        executable.predict(&inputs, None)
    };
    let alone: Vec<_> = rows.iter().map(alone).collect();
    if executable.takes_rows() {
        let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(Cow::Borrowed).collect()).collect();
        if let Ok(together) = executable.predict_rows(&rows) {
            for (one, found) in alone.into_iter().zip(together) {
                // Debug output has every bit of a number, and NaN equals itself.
                assert_eq!(format!("{:?}", one.expect("a row that is an error alone")), format!("{found:?}"));
            }
        }
    }
}

/// A small value of a type.
fn value(ty: &ValueType, seed: usize) -> Option<FeatureValue> {
    let number = |i: usize| match (seed + i) % 13 {
        12 => f64::NAN,
        n => n as f64 * 0.5 - 2.0,
    };
    let tensor = match ty {
        ValueType::Tensor(tensor) => tensor,
        ValueType::Dictionary(key, _) => {
            let text = key.tensor()?.dtype == DataType::String;
            let key = |i: usize| match text {
                true => DictionaryKey::String(["a", "b", "cat", ""][(seed + i) % 4].to_owned()),
                false => DictionaryKey::Int((seed + i) as i64 % 5),
            };
            return Some(FeatureValue::Dictionary((0..3).map(|i| (key(i), number(i))).collect()));
        }
        _ => return None,
    };
    let shape: Vec<usize> = tensor.shape.iter().map(|d| d.fixed().unwrap_or(2)).collect();
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= INPUT)?;
    let text = |i: usize| ["a", "b", "cat", ""][(seed + i) % 4].to_owned();
    match tensor.dtype {
        DataType::String if shape.is_empty() => Some(FeatureValue::String(text(0))),
        DataType::String => Some(FeatureValue::Strings((0..count).map(text).collect())),
        DataType::F64 if shape.is_empty() => Some(FeatureValue::Double(number(0))),
        d if d.is_float() => {
            let values: Vec<f64> = (0..count).map(number).collect();
            let dtype = if d == DataType::F64 { DType::F64 } else { DType::F32 };
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype));
            tensor.ok().map(FeatureValue::Tensor)
        }
        _ => {
            let values: Vec<i64> = (0..count).map(|i| (seed + i) as i64 % 5).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).ok().map(FeatureValue::Tensor)
        }
    }
}
