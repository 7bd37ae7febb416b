//! Values of callers that are no tensors of floats or integers, as values of a program, and values of a program as results.
//!
//! Doubles, strings and dictionaries exist in the programs of classic models only. Doubles are not rounded.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, TensorType, ValueType};
use coreml_values::{DictionaryKey, FeatureValue};

use crate::array::Array;
use crate::budget;
use crate::error::OpError;
use crate::layout;
use crate::value::{FromValue, Strings, Value};

/// Bytes of one entry of a dictionary, about.
pub(crate) const ENTRY: usize = 512;

/// A string, strings or a dictionary as a value of the declared type; none for what is a tensor, or does not fit.
///
/// # Errors
/// Memory.
pub(crate) fn given(value: &FeatureValue, declared: &ValueType) -> Result<Option<Value>, OpError> {
    let strings = |data: Vec<String>, shape: Vec<usize>, ty: &TensorType| {
        let fits = ty.dtype == DataType::String && shape_fits(&shape, ty);
        fits.then(|| Value::Strings(Arc::new(Strings { data, shape })))
    };
    Ok(match (value, declared) {
        (FeatureValue::Double(x), ValueType::Tensor(ty)) if ty.dtype == DataType::F64 && ty.shape.is_empty() => {
            Some(Value::doubles(vec![*x], Vec::new()))
        }
        (FeatureValue::String(text), ValueType::Tensor(ty)) => strings(vec![text.clone()], Vec::new(), ty),
        (FeatureValue::Strings(all), ValueType::Tensor(ty)) => strings(all.clone(), vec![all.len()], ty),
        (FeatureValue::Dictionary(entries), ValueType::Dictionary(key, _)) => {
            let texts = key.tensor().is_some_and(|t| t.dtype == DataType::String);
            if entries.iter().any(|(k, _)| matches!(k, DictionaryKey::String(_)) != texts) {
                return Ok(None);
            }
            Some(dictionary(entries.iter().cloned())?)
        }
        _ => None,
    })
}

/// A dictionary from keys to doubles.
///
/// # Errors
/// Memory.
pub(crate) fn dictionary<I>(entries: I) -> Result<Value, OpError>
where
    I: IntoIterator<Item = (DictionaryKey, f64), IntoIter: ExactSizeIterator>,
{
    let entries = entries.into_iter();
    budget::claim(entries.len().saturating_mul(ENTRY))?;
    let entry = |(k, x)| Ok((key_value(k)?, Value::doubles(vec![x], Vec::new())));
    Ok(Value::Dictionary(Arc::new(entries.map(entry).collect::<Result<_, OpError>>()?)))
}

/// A key as a value: a string, or an int64.
pub(crate) fn key_value(key: DictionaryKey) -> Result<Value, OpError> {
    Ok(match key {
        DictionaryKey::String(text) => Value::string(text),
        DictionaryKey::Int(n) => Value::Array(Array::from_i64(vec![n], &[], DataType::I64, &Device::Cpu)?),
    })
}

/// A tensor as doubles, each number as near as f64 has it.
///
/// # Errors
/// Element types that inputs don't bring; memory.
pub(crate) fn doubles(tensor: &Tensor) -> Result<Value, OpError> {
    if !layout::is_taken(tensor.dtype()) {
        return Err(OpError::data(format!("elements of type {}", tensor.dtype().as_str())));
    }
    budget::claim_of::<[f64; 3]>(tensor.elem_count())?;
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?.to_dtype(DType::F64)?;
    Ok(Value::doubles(tensor.flatten_all()?.to_vec1()?, tensor.dims().to_vec()))
}

/// What a prediction returns for a value.
///
/// # Errors
/// Kinds that no feature has; memory.
pub(crate) fn output(value: &Value, ty: Option<&ValueType>, device: &Device) -> Result<FeatureValue, OpError> {
    match value {
        Value::Array(_) | Value::Weight(_) => {
            let array = value.array("output", device)?;
            let dtype = ty.and_then(ValueType::tensor).map_or(array.dtype(), |t| t.dtype);
            Ok(FeatureValue::Tensor(layout::to_dtype(&layout::contiguous(array.tensor())?, public_dtype(dtype))?))
        }
        Value::Doubles(d) => {
            budget::claim_of::<f64>(d.data.len())?;
            Ok(FeatureValue::Tensor(Tensor::from_slice(&d.data, d.shape.as_slice(), device)?))
        }
        Value::Strings(s) => Ok(match s.data.as_slice() {
            [text] if s.shape.is_empty() => FeatureValue::String(text.clone()),
            texts => FeatureValue::Strings(texts.to_vec()),
        }),
        Value::Dictionary(entries) => entries
            .iter()
            .map(|(k, v)| Ok((key(k)?, f64::from_value("value", v)?)))
            .collect::<Result<_, _>>()
            .map(FeatureValue::Dictionary),
        other => Err(OpError::Unsupported(format!("returning a {}", other.kind()))),
    }
}

/// The key of a dictionary that a value is.
pub(crate) fn key(value: &Value) -> Result<DictionaryKey, OpError> {
    match value {
        Value::Strings(s) => {
            s.data.first().cloned().map(DictionaryKey::String).ok_or_else(|| OpError::data("an empty key"))
        }
        other => i64::from_value("key", other).map(DictionaryKey::Int),
    }
}

/// The Candle type in which results of a declared element type are returned.
pub fn public_dtype(dtype: DataType) -> DType {
    match dtype {
        DataType::F16 => DType::F16,
        DataType::BF16 => DType::BF16,
        DataType::F64 => DType::F64,
        DataType::Bool | DataType::U8 | DataType::U1 | DataType::U2 | DataType::U3 | DataType::U4 | DataType::U6 => {
            DType::U8
        }
        DataType::I8 | DataType::I4 | DataType::I16 => DType::I16,
        DataType::U16 | DataType::I32 => DType::I32,
        DataType::U32 => DType::U32,
        DataType::I64 | DataType::U64 => DType::I64,
        _ => DType::F32,
    }
}

/// True if a shape fits a declared type.
pub(crate) fn shape_fits(shape: &[usize], ty: &TensorType) -> bool {
    if ty.shape.contains(&Dim::Variadic) {
        return true;
    }
    shape.len() == ty.shape.len() && shape.iter().zip(&ty.shape).all(|(&n, d)| d.fixed().is_none_or(|m| m == n))
}
