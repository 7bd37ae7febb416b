//! Quantization and dequantization at run time.
//!
//! Semantics follow the reference documentation of coremltools' `quantization_ops` chapter.

use candle_core::Tensor;
use coreml_format::dtype::DataType;

use crate::array::Array;
use crate::budget::{self, Counted};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::resolve_axis;

pub(super) const OPS: &[OpSpec] =
    &[OpSpec::new("dequantize", IOS17, dequantize), OpSpec::new("quantize", IOS17, quantize)];

/// A scalar, or a vector along `axis`, shaped to broadcast.
fn parameter(f: &Frame<'_>, slot: Slot, axis: Option<i64>, rank: usize) -> Result<Tensor, OpError> {
    let t = f.array(slot)?.tensor().counted_to_dtype(candle_core::DType::F32)?;
    if t.elem_count() == 1 {
        return Ok(t.reshape(())?);
    }
    let mut shape = vec![1; rank];
    let axis = axis.ok_or_else(|| OpError::Missing("axis".to_owned()))?;
    shape[resolve_axis(axis, rank)?] = t.elem_count();
    Ok(t.reshape(shape)?)
}

/// `quantize(input, scale, zero_point = 0, output_dtype, axis?)`: clip(round(x / scale) + zero_point).
fn quantize(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, scale, zero) = (b.slot("input")?, b.slot("scale")?, b.slot_opt("zero_point")?);
    let axis = b.attr_opt::<i64>("axis")?;
    let name: String = b.attr("output_dtype")?;
    let (dtype, low, high) = match name.as_str() {
        "int8" => (DataType::I8, -128.0, 127.0),
        "uint8" => (DataType::U8, 0.0, 255.0),
        other => return Err(OpError::data(format!("quantize to `{other}`"))),
    };
    b.run(move |f| {
        let x = f.array(x)?;
        let scale = parameter(f, scale, axis, x.rank())?;
        let mut y: Vec<f32> = x.tensor().counted_broadcast(&scale, Tensor::broadcast_div)?.counted_elements()?;
        if y.len() != x.tensor().elem_count() {
            return Err(OpError::shape(format!("scales {:?} for {:?}", scale.dims(), x.shape())));
        }
        y.iter_mut().for_each(|v| *v = v.round_ties_even());
        let mut y = Tensor::from_vec(y, x.shape(), f.device())?;
        if let Some(zero) = zero {
            y = y.counted_broadcast(&parameter(f, zero, axis, x.rank())?, Tensor::broadcast_add)?;
        }
        // Candle clamps from below, then from above, with tensors of the bounds.
        let y = budget::mapped(&y, |y| y.maximum(low))?;
        let y = budget::mapped(&y, |y| y.minimum(high))?;
        one(Array::new(y.counted_to_dtype(candle_core::DType::I64)?, dtype)?)
    })
}

/// `dequantize(input, scale, zero_point = 0, axis?)`: scale · (q − zero_point).
fn dequantize(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, scale, zero) = (b.slot("input")?, b.slot("scale")?, b.slot_opt("zero_point")?);
    let axis = b.attr_opt::<i64>("axis")?;
    let dtype = b.output_dtype(0)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let mut y = x.tensor().counted_to_dtype(candle_core::DType::F32)?;
        if let Some(zero) = zero {
            y = y.counted_broadcast(&parameter(f, zero, axis, x.rank())?, Tensor::broadcast_sub)?;
        }
        let scale = parameter(f, scale, axis, x.rank())?;
        one(Array::new(y.counted_broadcast(&scale, Tensor::broadcast_mul)?, dtype)?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn quantize_rounds_to_even_and_saturates() {
        let body = "tensor<int8, [4]> q = quantize(input = x, scale = fp32(2), zero_point = int8(1), output_dtype = string(\"int8\")); \
            tensor<fp32, [4]> y = dequantize(input = q, scale = fp32(2), zero_point = int8(1));";
        near(&of(body, &[4], &[1.0, 3.0, 1e6, -1e6]), &[0.0, 4.0, 252.0, -258.0]);
    }
}
