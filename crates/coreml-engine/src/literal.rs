//! Literals of the IR as runtime values.
//!
//! Small tensors become arrays in the engine's representation; large ones in weight files stay mapped as [`Weight`]s.

use std::sync::Arc;

use candle_core::Device;
use coreml_format::blob::Blob;
use coreml_format::dtype::DataType;
use coreml_format::program::{TensorData, TensorType, Value as Literal, ValueData};
use coreml_format::weights::Weights;

use crate::budget;
use crate::decode::decode;
use crate::error::OpError;
use crate::shape::check_size;
use crate::value::{Strings, Value};
use crate::weight::Weight;

/// Constants in weight files with more elements than this stay mapped.
pub(crate) const KEEP_MAPPED: usize = 4096;

/// Converts a literal to a runtime value.
///
/// # Errors
/// If its data does not fit its type or a blob cannot be resolved.
pub(crate) fn value(literal: &Literal, weights: &Weights, device: &Device) -> Result<Value, OpError> {
    match &literal.data {
        ValueData::Tensor(data) => {
            let ty =
                literal.ty.tensor().ok_or_else(|| OpError::data("a literal has tensor data but no tensor type"))?;
            tensor(ty, data, weights, device)
        }
        ValueData::Tuple(items) | ValueData::List(items) => {
            let items = items.iter().map(|i| value(i, weights, device)).collect::<Result<_, _>>()?;
            Ok(Value::List(Arc::new(items)))
        }
        ValueData::Dictionary(entries) => {
            let entries = entries
                .iter()
                .map(|(k, v)| Ok((value(k, weights, device)?, value(v, weights, device)?)))
                .collect::<Result<_, OpError>>()?;
            Ok(Value::Dictionary(Arc::new(entries)))
        }
    }
}

fn tensor(ty: &TensorType, data: &TensorData, weights: &Weights, device: &Device) -> Result<Value, OpError> {
    let shape = ty.fixed_shape().ok_or_else(|| OpError::shape("a literal has unknown extents"))?;
    let count = check_size(&shape)?;
    match data {
        TensorData::Strings(strings) if strings.len() == count => {
            Ok(Value::Strings(Arc::new(Strings { data: strings.clone(), shape })))
        }
        TensorData::Strings(strings) => Err(OpError::shape(format!("{} strings for shape {shape:?}", strings.len()))),
        TensorData::Bytes(bytes) if ty.dtype == DataType::F64 => {
            let (all, rest) = bytes.as_chunks::<8>();
            if all.len() != count || !rest.is_empty() {
                return Err(OpError::shape(format!("{} bytes for fp64 {shape:?}", bytes.len())));
            }
            budget::claim_of::<f64>(count)?;
            Ok(Value::doubles(all.iter().map(|&x| f64::from_le_bytes(x)).collect(), shape))
        }
        TensorData::Bytes(bytes) => Ok(Value::Array(decode(bytes, ty.dtype, &shape, device)?)),
        TensorData::Shared(blob) => mapped(blob.clone(), ty, shape, count, device),
        TensorData::Blob(blob) => mapped(weights.resolve(blob)?, ty, shape, count, device),
    }
}

/// Elements of a file; many stay there.
fn mapped(blob: Blob, ty: &TensorType, shape: Vec<usize>, count: usize, device: &Device) -> Result<Value, OpError> {
    if blob.elements() != count || !same_storage(blob.dtype(), ty.dtype) {
        let found = format!("{} × {}", blob.elements(), blob.dtype());
        return Err(OpError::shape(format!("weight file holds {found} where the program says {} {shape:?}", ty.dtype)));
    }
    if count > KEEP_MAPPED {
        return Ok(Value::Weight(Arc::new(Weight::dense(blob, ty.dtype, shape))));
    }
    Ok(Value::Array(decode(&blob, ty.dtype, &shape, device)?))
}

/// True if an element type of a weight file is stored like the declared type: booleans are stored as bytes.
fn same_storage(blob: DataType, declared: DataType) -> bool {
    blob == declared || (declared == DataType::Bool && matches!(blob, DataType::U8 | DataType::I8))
}
