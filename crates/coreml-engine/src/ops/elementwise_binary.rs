//! Elementwise functions of two tensors with broadcasting.
//!
//! Semantics follow the reference documentation of coremltools' `elementwise_binary` chapter: both arguments have the
//! same element type; comparisons and logic return booleans.

use candle_core::{DType, Tensor};
use coreml_format::dtype::DataType;
use coreml_kernels::buffer_pool::Element;

use crate::array::Array;
use crate::budget::{self, Counted};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::check_size;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::vectorized("add", IOS15, |b| arithmetic(b, Tensor::broadcast_add, |x, y| x + y, i64::wrapping_add)),
    OpSpec::vectorized("equal", IOS15, |b| compare(b, Tensor::broadcast_eq, |x, y| x == y, |x, y| x == y)),
    OpSpec::vectorized("floor_div", IOS15, |b| floats_or_ints(b, |x, y| (x / y).floor(), floor_div)),
    OpSpec::vectorized("greater", IOS15, |b| compare(b, Tensor::broadcast_gt, |x, y| x > y, |x, y| x > y)),
    OpSpec::vectorized("greater_equal", IOS15, |b| compare(b, Tensor::broadcast_ge, |x, y| x >= y, |x, y| x >= y)),
    OpSpec::vectorized("less", IOS15, |b| compare(b, Tensor::broadcast_lt, |x, y| x < y, |x, y| x < y)),
    OpSpec::vectorized("less_equal", IOS15, |b| compare(b, Tensor::broadcast_le, |x, y| x <= y, |x, y| x <= y)),
    OpSpec::elementwise("logical_and", IOS15, |b| logic(b, |x, y| x && y)),
    OpSpec::elementwise("logical_or", IOS15, |b| logic(b, |x, y| x || y)),
    OpSpec::elementwise("logical_xor", IOS15, |b| logic(b, |x, y| x != y)),
    OpSpec::vectorized("maximum", IOS15, |b| {
        let larger = |x: f32, y: f32| if x < y || y.is_nan() { y } else { x };
        arithmetic(b, Tensor::broadcast_maximum, larger, i64::max)
    }),
    OpSpec::vectorized("minimum", IOS15, |b| {
        let smaller = |x: f32, y: f32| if x > y || y.is_nan() { y } else { x };
        arithmetic(b, Tensor::broadcast_minimum, smaller, i64::min)
    }),
    OpSpec::vectorized("mod", IOS15, |b| {
        // Measured on Core ML: the remainder of truncated division, with the sign of the dividend.
        floats_or_ints(b, |x, y| x % y, |x, y| if y == 0 { x } else { x.wrapping_rem(y) })
    }),
    OpSpec::vectorized("mul", IOS15, |b| arithmetic(b, Tensor::broadcast_mul, |x, y| x * y, i64::wrapping_mul)),
    OpSpec::vectorized("not_equal", IOS15, |b| compare(b, Tensor::broadcast_ne, |x, y| x != y, |x, y| x != y)),
    OpSpec::vectorized("pow", IOS15, pow),
    OpSpec::vectorized("real_div", IOS15, |b| {
        floats_or_ints(b, |x, y| x / y, |x, y| if y == 0 { 0 } else { x.wrapping_div(y) })
    }),
    OpSpec::vectorized("sub", IOS15, |b| arithmetic(b, Tensor::broadcast_sub, |x, y| x - y, i64::wrapping_sub)),
];

fn floor_div(x: i64, y: i64) -> i64 {
    if y == 0 {
        return 0;
    }
    let q = x.wrapping_div(y);
    if x.wrapping_rem(y) != 0 && (x < 0) != (y < 0) { q - 1 } else { q }
}

fn int_pow(x: i64, y: i64) -> i64 {
    match u32::try_from(y) {
        Ok(y) => x.wrapping_pow(y),
        Err(_) => (x as f64).powf(y as f64) as i64,
    }
}

/// Both arguments in a common representation, and the element type of the result.
fn promote(x: Array, y: Array) -> Result<(Tensor, Tensor, DataType), OpError> {
    let dtype = if !x.dtype().is_float() && y.dtype().is_float() { y.dtype() } else { x.dtype() };
    let (x, y) = (x.into_tensor(), y.into_tensor());
    match (x.dtype(), y.dtype()) {
        (a, b) if a == b => Ok((x, y, dtype)),
        (DType::F32, _) | (_, DType::F32) => {
            Ok((x.counted_to_dtype(DType::F32)?, y.counted_to_dtype(DType::F32)?, dtype))
        }
        _ => Ok((x.counted_to_dtype(DType::I64)?, y.counted_to_dtype(DType::I64)?, dtype)),
    }
}

/// Shape of a broadcast result.
pub(crate) fn broadcast_shape(x: &[usize], y: &[usize]) -> Result<Vec<usize>, OpError> {
    let rank = x.len().max(y.len());
    let at = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let shape: Vec<usize> = (0..rank)
        .map(|d| match (at(x, d), at(y, d)) {
            (1, n) | (n, 1) => Ok(n),
            (a, b) if a == b => Ok(a),
            _ => Err(OpError::shape(format!("{x:?} and {y:?} do not broadcast"))),
        })
        .collect::<Result<_, _>>()?;
    check_size(&shape)?;
    Ok(shape)
}

type Apply = fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>;

/// Computes floats and integers on the CPU with a kernel, everything else with Candle.
fn arithmetic<F, I>(b: &OpBuilder<'_>, apply: Apply, floats: F, ints: I) -> Result<Run, OpError>
where
    F: Fn(f32, f32) -> f32 + Copy + Send + Sync + 'static,
    I: Fn(i64, i64) -> i64 + Copy + Send + Sync + 'static,
{
    let (x, y) = (b.slot("x")?, b.slot("y")?);
    b.run(move |f| {
        let (x, y, dtype) = promote(f.array(x)?, f.array(y)?)?;
        let shape = broadcast_shape(x.dims(), y.dims())?;
        if shape.contains(&0) {
            return one(Array::new(Tensor::zeros(shape, x.dtype(), f.device())?, dtype)?);
        }
        let result = match x.dtype() {
            DType::I64 => layout::binary(&x, &y, &shape, ints)?,
            _ => layout::binary(&x, &y, &shape, floats)?,
        };
        if let Some(result) = result {
            return one(Array::new(result, dtype)?);
        }
        one(Array::new(x.counted_broadcast(&y, apply)?, dtype)?)
    })
}

fn compare<F, I>(b: &OpBuilder<'_>, apply: Apply, floats: F, ints: I) -> Result<Run, OpError>
where
    F: Fn(f32, f32) -> bool + Copy + Send + Sync + 'static,
    I: Fn(i64, i64) -> bool + Copy + Send + Sync + 'static,
{
    let (x, y) = (b.slot("x")?, b.slot("y")?);
    b.run(move |f| {
        let (x, y, _) = promote(f.array(x)?, f.array(y)?)?;
        let shape = broadcast_shape(x.dims(), y.dims())?;
        if shape.contains(&0) {
            return one(Array::new(Tensor::zeros(shape, DType::U8, f.device())?, DataType::Bool)?);
        }
        let result = match x.dtype() {
            DType::I64 => layout::binary(&x, &y, &shape, move |x, y| u8::from(ints(x, y)))?,
            _ => layout::binary(&x, &y, &shape, move |x, y| u8::from(floats(x, y)))?,
        };
        if let Some(result) = result {
            return one(Array::new(result, DataType::Bool)?);
        }
        budget::claim_of::<u8>(shape.iter().product())?;
        one(Array::new(apply(&x, &y)?, DataType::Bool)?)
    })
}

/// Broadcasts both tensors and combines them elementwise, wherever they are.
fn zip<T: candle_core::WithDType + Element, R: candle_core::WithDType + Element>(
    x: &Tensor,
    y: &Tensor,
    shape: &[usize],
    f: impl Fn(T, T) -> R + Copy + Sync,
) -> Result<Tensor, OpError> {
    if let Some(result) = layout::binary(x, y, shape, f)? {
        return Ok(result);
    }
    let elements = |t: &Tensor| t.broadcast_as(shape)?.counted_elements::<T>();
    let data = budget::collect(elements(x)?.into_iter().zip(elements(y)?).map(|(x, y)| f(x, y)))?;
    Ok(Tensor::from_vec(data, shape, x.device())?)
}

fn logic(b: &OpBuilder<'_>, apply: impl Fn(bool, bool) -> bool + Copy + Send + Sync + 'static) -> Result<Run, OpError> {
    let (x, y) = (b.slot("x")?, b.slot("y")?);
    b.run(move |f| {
        let (x, y) = (f.array(x)?, f.array(y)?);
        let shape = broadcast_shape(x.shape(), y.shape())?;
        let as_bool = |a: Array| match a.tensor().dtype() {
            DType::U8 => Ok(a.into_tensor()),
            _ => Ok::<_, OpError>(Tensor::from_vec(a.to_bools()?, a.shape(), f.device())?),
        };
        let bools = move |a: u8, b: u8| u8::from(apply(a != 0, b != 0));
        one(Array::new(zip(&as_bool(x)?, &as_bool(y)?, &shape, bools)?, DataType::Bool)?)
    })
}

/// A function with separate definitions for floats and integers.
fn floats_or_ints<F, I>(b: &OpBuilder<'_>, floats: F, ints: I) -> Result<Run, OpError>
where
    F: Fn(f32, f32) -> f32 + Copy + Send + Sync + 'static,
    I: Fn(i64, i64) -> i64 + Copy + Send + Sync + 'static,
{
    let (x, y) = (b.slot("x")?, b.slot("y")?);
    b.run(move |f| {
        let (x, y, dtype) = promote(f.array(x)?, f.array(y)?)?;
        one(Array::new(apply(&x, &y, floats, ints)?, dtype)?)
    })
}

/// Applies the function to both broadcast tensors.
fn apply(
    x: &Tensor,
    y: &Tensor,
    floats: impl Fn(f32, f32) -> f32 + Copy + Sync,
    ints: impl Fn(i64, i64) -> i64 + Copy + Sync,
) -> Result<Tensor, OpError> {
    let shape = broadcast_shape(x.dims(), y.dims())?;
    if x.dtype() == DType::F32 {
        return zip(x, y, &shape, floats);
    }
    zip(&x.counted_to_dtype(DType::I64)?, &y.counted_to_dtype(DType::I64)?, &shape, ints)
}

/// `pow(x, y)`: special cases powers that are a product or a root.
fn pow(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, y) = (b.slot("x")?, b.slot("y")?);
    b.run(move |f| {
        let (x, y, dtype) = promote(f.array(x)?, f.array(y)?)?;
        let exponent = if y.dtype() == DType::F32 && y.elem_count() == 1 { single(&y)? } else { f32::NAN };
        let result = match exponent {
            1.0 => apply(&x, &y, |x, _| x, int_pow)?,
            2.0 => apply(&x, &y, |x, _| x * x, int_pow)?,
            3.0 => apply(&x, &y, |x, _| x * x * x, int_pow)?,
            -1.0 => apply(&x, &y, |x, _| 1.0 / x, int_pow)?,
            // As powers, −0 and −∞ to ½ are 0 and ∞.
            0.5 => apply(&x, &y, |x, _| if x == f32::NEG_INFINITY { -x } else { (x + 0.0).sqrt() }, int_pow)?,
            _ => apply(&x, &y, coreml_kernels::math::pow, int_pow)?,
        };
        one(Array::new(result, dtype)?)
    })
}

/// The element of a single-element float tensor.
fn single(t: &Tensor) -> Result<f32, OpError> {
    Ok(t.flatten_all()?.get(0)?.to_scalar()?)
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn mod_has_the_sign_of_the_dividend_and_floor_div_rounds_down() {
        let x = [-3.0, 3.0, -7.0, 7.5];
        near(&of("tensor<fp32, [4]> y = mod(x = x, y = fp32(5));", &[4], &x), &[-3.0, 3.0, -2.0, 2.5]);
        near(&of("tensor<fp32, [4]> y = floor_div(x = x, y = fp32(2));", &[4], &x), &[-2.0, 1.0, -4.0, 3.0]);
    }

    #[test]
    fn real_div_and_pow_follow_ieee() {
        let y = of("tensor<fp32, [3]> y = real_div(x = x, y = fp32(0));", &[3], &[1.0, -1.0, 0.0]);
        near(&y, &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        near(&of("tensor<fp32, [3]> y = pow(x = x, y = fp32(0));", &[3], &[0.0, -2.0, f32::NAN]), &[1.0; 3]);
    }

    #[test]
    fn operands_broadcast_or_are_refused() {
        let y = of("tensor<fp32, [2, 3]> y = sub(x = x, y = tensor<fp32, [3]>([1, 2, 3]));", &[2, 1], &[10.0, 20.0]);
        near(&y, &[9.0, 8.0, 7.0, 19.0, 18.0, 17.0]);
        near(&of("tensor<fp32, [0]> y = add(x = x, y = fp32(1));", &[0], &[]), &[]);
        refused("tensor<fp32, [3]> y = add(x = x, y = tensor<fp32, [3]>([1, 2, 3]));", &[2], &[1.0, 2.0], "add");
    }
}
