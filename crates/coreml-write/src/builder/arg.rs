//! Arguments of operations: values of the program, and literals whose element type follows from the table.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, TensorData, TensorType, Value, ValueData, ValueType};
use half::f16;

/// A value of a function that is being built.
#[derive(Debug, Clone, PartialEq)]
pub struct Var {
    pub(crate) name: String,
    pub(crate) ty: ValueType,
    /// Function that it belongs to.
    pub(crate) owner: u64,
    /// Its literal, if it is a constant.
    pub(crate) literal: Option<Value>,
    /// True for constants and results of `constexpr_*`.
    pub(crate) constant: bool,
}

impl Var {
    /// Name in the program.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type.
    pub fn ty(&self) -> &ValueType {
        &self.ty
    }

    /// Shape, if it is a tensor of known extents.
    pub fn shape(&self) -> Option<Vec<usize>> {
        self.ty.tensor()?.fixed_shape()
    }

    /// Element type, if it is a tensor or a state.
    pub fn dtype(&self) -> Option<DataType> {
        Some(self.ty.tensor()?.dtype)
    }
}

/// An argument of an operation.
#[derive(Debug, Clone)]
pub enum Arg {
    /// A value.
    Var(Var),
    /// Values of a variadic parameter.
    Vars(Vec<Var>),
    /// An integer.
    Int(i64),
    /// A vector of integers.
    Ints(Vec<i64>),
    /// A number; its element type is that of the operation's first tensor.
    Float(f64),
    /// A vector of numbers.
    Floats(Vec<f64>),
    /// A boolean.
    Bool(bool),
    /// A vector of booleans.
    Bools(Vec<bool>),
    /// A string.
    Text(String),
    /// A literal as it is.
    Literal(Value),
}

macro_rules! from {
    ($($ty:ty, $v:ident => $make:expr;)*) => {
        $(impl From<$ty> for Arg {
            fn from($v: $ty) -> Self {
                $make
            }
        })*
    };
}

from! {
    &Var, v => Arg::Var(v.clone());
    Var, v => Arg::Var(v);
    Vec<Var>, v => Arg::Vars(v);
    &[&Var], v => Arg::Vars(v.iter().map(|&v| v.clone()).collect());
    i32, v => Arg::Int(i64::from(v));
    usize, v => Arg::Int(i64::try_from(v).unwrap_or(i64::MAX));
    Vec<usize>, v => Arg::Ints(v.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect());
    &[usize], v => Arg::from(v.to_vec());
    &[i32], v => Arg::Ints(v.iter().map(|&n| i64::from(n)).collect());
    f32, v => Arg::Float(f64::from(v));
    f64, v => Arg::Float(v);
    &[f32], v => Arg::Floats(v.iter().map(|&n| f64::from(n)).collect());
    bool, v => Arg::Bool(v);
    &[bool], v => Arg::Bools(v.to_vec());
    &str, v => Arg::Text(v.to_owned());
    Value, v => Arg::Literal(v);
}

impl<const N: usize> From<[i32; N]> for Arg {
    fn from(v: [i32; N]) -> Self {
        Arg::from(v.as_slice())
    }
}

impl<const N: usize> From<[usize; N]> for Arg {
    fn from(v: [usize; N]) -> Self {
        Arg::from(v.as_slice())
    }
}

impl<const N: usize> From<[bool; N]> for Arg {
    fn from(v: [bool; N]) -> Self {
        Arg::Bools(v.to_vec())
    }
}

impl<const N: usize> From<[&Var; N]> for Arg {
    fn from(v: [&Var; N]) -> Self {
        Arg::from(v.as_slice())
    }
}

/// Elements of an integer type or booleans, packed; `None` if one does not fit.
pub(crate) fn integers(dtype: DataType, all: &[i64]) -> Option<Vec<u8>> {
    macro_rules! pack {
        ($t:ty) => {
            all.iter().map(|&v| Some(<$t>::try_from(v).ok()?.to_le_bytes())).collect::<Option<Vec<_>>>()?.concat()
        };
    }
    Some(match dtype {
        DataType::Bool => all.iter().map(|&v| u8::try_from(v).ok().filter(|&b| b < 2)).collect::<Option<_>>()?,
        DataType::I8 => pack!(i8),
        DataType::U8 => pack!(u8),
        DataType::I16 => pack!(i16),
        DataType::U16 => pack!(u16),
        DataType::I32 => pack!(i32),
        DataType::U32 => pack!(u32),
        DataType::I64 => pack!(i64),
        DataType::F16 | DataType::F32 | DataType::F64 => {
            return floats(dtype, &all.iter().map(|&v| v as f64).collect::<Vec<_>>());
        }
        _ => return None,
    })
}

/// Elements of a float type, packed; `None` if a finite one becomes infinite.
pub(crate) fn floats(dtype: DataType, all: &[f64]) -> Option<Vec<u8>> {
    let finite = |before: f64, after: bool| after || !before.is_finite();
    Some(match dtype {
        DataType::F16 => {
            let half = |&v: &f64| Some(f16::from_f64(v)).filter(|h| finite(v, h.is_finite())).map(f16::to_le_bytes);
            all.iter().map(half).collect::<Option<Vec<_>>>()?.concat()
        }
        DataType::F32 => {
            let single = |&v: &f64| Some(v as f32).filter(|s| finite(v, s.is_finite())).map(f32::to_le_bytes);
            all.iter().map(single).collect::<Option<Vec<_>>>()?.concat()
        }
        DataType::F64 => all.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => return None,
    })
}

/// The literal of an argument, with an element type of those allowed; `like` is the type of the first tensor.
///
/// `Err` says what is expected.
pub(crate) fn literal(arg: &Arg, allowed: &[DataType], like: Option<DataType>) -> Result<Option<Value>, String> {
    let pick = |wanted: fn(DataType) -> bool, usual: DataType| {
        let fits = |t: &DataType| wanted(*t) && (allowed.is_empty() || allowed.contains(t));
        like.filter(fits).or_else(|| Some(usual).filter(fits)).or_else(|| allowed.iter().copied().find(fits))
    };
    let numbers = |all: &[i64], shape: &[usize]| {
        let integer = |t: DataType| t.is_int();
        let dtype = Some(DataType::I32)
            .filter(|t| allowed.is_empty() || allowed.contains(t))
            .filter(|_| like.is_none_or(|t| !t.is_float() || !allowed.contains(&t)))
            .or_else(|| pick(DataType::is_float, DataType::F32).filter(|_| like.is_some_and(DataType::is_float)))
            .or_else(|| pick(integer, DataType::I32))
            .or_else(|| pick(DataType::is_float, DataType::F32));
        let bytes = dtype.and_then(|t| Some((t, integers(t, all)?)));
        bytes
            .map(|(t, b)| Value::tensor(t, shape, b))
            .ok_or_else(|| format!("expected {}, found {all:?}", words(allowed)))
    };
    let reals = |all: &[f64], shape: &[usize]| {
        let bytes = pick(DataType::is_float, DataType::F32).and_then(|t| Some((t, floats(t, all)?)));
        bytes
            .map(|(t, b)| Value::tensor(t, shape, b))
            .ok_or_else(|| format!("expected {}, found {all:?}", words(allowed)))
    };
    Ok(Some(match arg {
        Arg::Var(_) | Arg::Vars(_) => return Ok(None),
        Arg::Int(n) => numbers(&[*n], &[])?,
        Arg::Ints(all) => numbers(all, &[all.len()])?,
        Arg::Float(v) => reals(&[*v], &[])?,
        Arg::Floats(all) => reals(all, &[all.len()])?,
        Arg::Bool(b) => Value::bool(*b),
        Arg::Bools(all) => Value::bools(all),
        Arg::Text(text) => Value::string(text),
        Arg::Literal(v) => v.clone(),
    }))
}

/// Element types in words.
pub(crate) fn words(types: &[DataType]) -> String {
    types.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")
}

/// Integers of a small literal.
pub(crate) fn numbers(value: &Value) -> Option<Vec<i64>> {
    let ValueData::Tensor(TensorData::Bytes(bytes)) = &value.data else { return None };
    fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> i64) -> Vec<i64> {
        bytes.as_chunks::<N>().0.iter().map(|&c| f(c)).collect()
    }
    Some(match value.ty.tensor()?.dtype {
        DataType::Bool | DataType::U8 => each::<1>(bytes, |c| i64::from(c[0])),
        DataType::I8 => each::<1>(bytes, |c| i64::from(i8::from_le_bytes(c))),
        DataType::I16 => each(bytes, |c| i64::from(i16::from_le_bytes(c))),
        DataType::U16 => each(bytes, |c| i64::from(u16::from_le_bytes(c))),
        DataType::I32 => each(bytes, |c| i64::from(i32::from_le_bytes(c))),
        DataType::U32 => each(bytes, |c| i64::from(u32::from_le_bytes(c))),
        DataType::I64 => each(bytes, i64::from_le_bytes),
        _ => return None,
    })
}

/// The string of a literal.
pub(crate) fn text(value: &Value) -> Option<&str> {
    match &value.data {
        ValueData::Tensor(TensorData::Strings(all)) => all.first().map(String::as_str),
        _ => None,
    }
}

/// A binding of a value.
pub(crate) fn by_name(var: &Var) -> Binding {
    Binding::Name(var.name.clone())
}

/// An argument that binds these values.
pub(crate) fn argument(vars: &[Var], variadic: bool) -> Argument {
    match vars {
        [only] if !variadic => Argument::One(by_name(only)),
        all => Argument::Many(all.iter().map(by_name).collect()),
    }
}

/// A tensor type.
pub(crate) fn tensor(dtype: DataType, shape: Vec<coreml_format::program::Dim>) -> ValueType {
    ValueType::Tensor(TensorType { dtype, shape })
}
