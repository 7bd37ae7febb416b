//! Operations of classic models: feature engineering, linear models, trees, support vectors. Lowering makes them, one or two
//! for a model; no file has them.
//!
//! They take numbers in f64 and return them in f64 ([`Doubles`](crate::value::Doubles)), unless the declared result is of
//! another type. Tables and trees are constants of the program: tensors and strings.

use std::hash::Hash;

use coreml_format::dtype::DataType;
use coreml_values::DictionaryKey;

use crate::array::Array;
use crate::border;
use crate::budget;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::OpSpec;
use crate::value::{FromValue, Value};

mod confidences;
mod convert;
mod copy;
mod dictionary_vector;
mod features;
mod first_best;
mod glm;
mod impute;
mod label;
mod map_category;
mod neighbors;
mod normalize;
mod one_hot;
mod probit;
mod recommend;
mod scale;
mod search;
mod select;
mod suppress;
mod svm;
mod trees;

/// All of them.
pub(super) const OPS: &[OpSpec] = &[
    confidences::OP,
    convert::OP,
    copy::OP,
    dictionary_vector::OP,
    features::OP,
    first_best::OP,
    glm::OP,
    impute::OP,
    label::OP,
    map_category::OP,
    neighbors::OP,
    normalize::OP,
    one_hot::OP,
    probit::OP,
    recommend::OP,
    scale::OP,
    select::OP,
    suppress::OP,
    svm::OP,
    trees::OP,
];

/// The numbers of values, one after the other.
fn numbers(f: &Frame<'_>, slots: &[Slot]) -> Result<Vec<f64>, OpError> {
    let mut all = Vec::with_capacity(slots.len());
    append_numbers(f, slots, &mut all)?;
    Ok(all)
}

/// [`numbers`], behind others.
fn append_numbers(f: &Frame<'_>, slots: &[Slot], all: &mut Vec<f64>) -> Result<(), OpError> {
    for &slot in slots {
        match f.value(slot)? {
            Value::Doubles(d) => {
                budget::claim_of::<f64>(d.data.len())?;
                all.extend_from_slice(&d.data);
            }
            other => append(all, Vec::<f64>::from_value("x", other)?)?,
        }
    }
    Ok(())
}

/// Adds numbers, which are counted, to those that are there.
fn append(all: &mut Vec<f64>, part: Vec<f64>) -> Result<(), OpError> {
    if all.is_empty() {
        *all = part;
    } else {
        budget::claim_of::<f64>(part.len())?;
        all.extend(part);
    }
    Ok(())
}

/// Shape of a value that holds numbers; a scalar for strings and dictionaries.
fn shape_of(value: &Value) -> Vec<usize> {
    match value {
        Value::Array(a) => a.shape().to_vec(),
        Value::Doubles(d) => d.shape.clone(),
        Value::Weight(w) => w.shape().to_vec(),
        _ => Vec::new(),
    }
}

/// The declared type of a result of numbers.
struct Declared {
    dtype: DataType,
    shape: Option<Vec<usize>>,
}

impl Declared {
    /// That of output `index`.
    fn of(b: &OpBuilder<'_>, index: usize) -> Result<Self, OpError> {
        let shape = b.output_type(index).and_then(|t| t.tensor()?.fixed_shape());
        Ok(Self { dtype: b.output_dtype(index)?, shape })
    }

    /// Numbers as a value of this type, in its shape or else in `shape`. A number that an integer type does not have is an
    /// error.
    fn value(&self, data: Vec<f64>, shape: &[usize]) -> Result<Value, OpError> {
        let shape = self.shape.as_deref().unwrap_or(shape);
        let count = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        if count != Some(data.len()) {
            return Err(OpError::shape(format!("{} numbers for a result of shape {shape:?}", data.len())));
        }
        let device = &candle_core::Device::Cpu;
        match self.dtype {
            DataType::F64 => Ok(Value::doubles(data, shape.to_vec())),
            d if d.is_float() => {
                budget::claim_of::<f32>(data.len())?;
                let round = |x: f64| if d == DataType::F16 { half::f16::from_f64(x).to_f32() } else { x as f32 };
                Ok(Array::from_f32(data.into_iter().map(round).collect(), shape, d, device)?.into())
            }
            d @ (DataType::I32 | DataType::I64) => {
                budget::claim_of::<i64>(data.len())?;
                let top = if d == DataType::I32 { 2_147_483_648.0 } else { 9_223_372_036_854_775_808.0 };
                let whole = |x: f64| {
                    let fits = x.fract() == 0.0 && x >= -top && x < top;
                    if fits { Ok(x as i64) } else { Err(OpError::data(format!("the result {x} is no {d}"))) }
                };
                let data = data.into_iter().map(whole).collect::<Result<_, _>>()?;
                Ok(Array::from_i64(data, shape, d, device)?.into())
            }
            d => Err(OpError::Unsupported(format!("a result of type {d}"))),
        }
    }
}

/// The categories or labels of a constant: strings or integers.
fn keys(value: &Value) -> Result<Vec<DictionaryKey>, OpError> {
    match value {
        Value::Strings(s) => {
            budget::claim(s.data.len().saturating_mul(border::ENTRY))?;
            Ok(s.data.iter().cloned().map(DictionaryKey::String).collect())
        }
        other => Ok(Vec::<i64>::from_value("keys", other)?.into_iter().map(DictionaryKey::Int).collect()),
    }
}

/// The keys of a constant parameter.
fn constant_keys(b: &OpBuilder<'_>, name: &str) -> Result<Vec<DictionaryKey>, OpError> {
    let slot = b.slot(name)?;
    keys(b.constant(slot).ok_or_else(|| OpError::Missing(name.to_owned()))?)
}

/// Positions by key. A key that stands twice is an error.
fn positions<K: Hash + Eq + Clone + std::fmt::Debug>(
    keys: &[K],
) -> Result<std::collections::HashMap<K, usize>, OpError> {
    let mut found = std::collections::HashMap::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        if found.insert(key.clone(), i).is_some() {
            return Err(OpError::data(format!("{key:?} stands twice in the table")));
        }
    }
    Ok(found)
}

/// One key: a string or an integer, which may come as a number.
fn one_key(value: &Value) -> Result<DictionaryKey, OpError> {
    if let Value::Doubles(_) = value {
        let x = f64::from_value("x", value)?;
        let whole = x.fract() == 0.0 && x.abs() < 9_223_372_036_854_775_808.0;
        return if whole { Ok(DictionaryKey::Int(x as i64)) } else { Err(OpError::data(format!("{x} is no integer"))) };
    }
    border::key(value)
}

/// The cumulative distribution function of the standard normal distribution.
fn normal(x: f64) -> f64 {
    0.5 * candle_core::cpu::erf::erfc_f64(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// 1 / (1 + e⁻ˣ).
fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// eˣ over their sum.
fn softmax(scores: &mut [f64]) {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|x| *x /= sum);
}
