//! Elementwise functions of one tensor.
//!
//! Semantics follow the reference documentation of coremltools' `elementwise_unary` chapter.

use candle_core::DType;
use coreml_format::dtype::DataType;

use coreml_kernels::elementwise::{Cos, Erf, Exp, Exp2, LnOf, Sin, Tan, Tanh, Unary};

use crate::array::Array;
use crate::budget::{self, Counted};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::vectorized("abs", IOS15, |b| number(b, f32::abs, i64::wrapping_abs)),
    OpSpec::elementwise("acos", IOS15, |b| float(b, f32::acos)),
    OpSpec::elementwise("asin", IOS15, |b| float(b, f32::asin)),
    OpSpec::elementwise("atan", IOS15, |b| float(b, f32::atan)),
    OpSpec::elementwise("atanh", IOS15, |b| float(b, f32::atanh)),
    OpSpec::elementwise("cast", IOS15_17, cast),
    OpSpec::vectorized("ceil", IOS15, |b| number(b, f32::ceil, |x| x)),
    OpSpec::vectorized("clip", IOS15_17, clip).fuse(|graph, op| {
        Some(("clip", vec![("low", graph.number(op, "alpha")?), ("high", graph.number(op, "beta")?)]))
    }),
    OpSpec::vectorized("cos", IOS15, |b| float(b, Cos)),
    OpSpec::elementwise("cosh", IOS15, |b| float(b, f32::cosh)),
    OpSpec::vectorized("erf", IOS15, |b| float(b, Erf)),
    OpSpec::vectorized("exp", IOS15, |b| float(b, Exp)),
    OpSpec::vectorized("exp2", IOS15, |b| number(b, Exp2, |x| (x as f64).exp2() as i64)),
    OpSpec::vectorized("floor", IOS15, |b| number(b, f32::floor, |x| x)),
    OpSpec::vectorized("inverse", IOS15_17, |b| epsilon(b, 1e-4, |e| move |x| 1.0 / (x + e))),
    OpSpec::vectorized("log", IOS15_17, |b| epsilon(b, 1e-45, |epsilon| LnOf { epsilon })),
    OpSpec::elementwise("logical_not", IOS15, logical_not),
    OpSpec::vectorized("round", IOS15, |b| number(b, f32::round_ties_even, |x| x)),
    OpSpec::vectorized("rsqrt", IOS15_17, |b| epsilon(b, 1e-12, |e| move |x: f32| 1.0 / (x + e).sqrt())),
    OpSpec::vectorized("sign", IOS15, |b| {
        number(
            b,
            |x| {
                if x > 0.0 {
                    1.0
                } else if x < 0.0 {
                    -1.0
                } else {
                    x
                }
            },
            i64::signum,
        )
    }),
    OpSpec::vectorized("sin", IOS15, |b| float(b, Sin)),
    OpSpec::elementwise("sinh", IOS15, |b| float(b, f32::sinh)),
    OpSpec::vectorized("sqrt", IOS15, |b| float(b, f32::sqrt)),
    OpSpec::vectorized("square", IOS15, |b| number(b, |x| x * x, |x| x.wrapping_mul(x))),
    OpSpec::vectorized("tan", IOS15, |b| float(b, Tan)),
    OpSpec::vectorized("tanh", IOS15, |b| float(b, Tanh)),
    OpSpec::vectorized("threshold", IOS15_17, threshold),
];

/// Applies `f` to every element of a float array; integers are computed as floats and truncated.
pub(super) fn map(x: &Array, f: impl Unary + Copy) -> Result<Array, OpError> {
    let device = x.tensor().device();
    if let Some(y) = layout::map(x.tensor(), f)? {
        return Ok(x.with(y));
    }
    let elements = x.to_f32s()?;
    budget::claim_of::<f32>(elements.len())?;
    let data = coreml_kernels::elementwise::map(&elements, f);
    if x.dtype().is_float() {
        return Array::from_f32(data, x.shape(), x.dtype(), device);
    }
    Array::from_i64(budget::collect(data.into_iter().map(|v| v as i64))?, x.shape(), x.dtype(), device)
}

fn map_ints(x: &Array, f: impl Fn(i64) -> i64) -> Result<Array, OpError> {
    let data = x.to_i64s()?.into_iter().map(f).collect();
    Array::from_i64(data, x.shape(), x.dtype(), x.tensor().device())
}

/// A function on floats.
pub(crate) fn float(b: &OpBuilder<'_>, apply: impl Unary + Copy + Send + 'static) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| one(map(&f.array(x)?, apply)?))
}

/// A function also defined on integers.
fn number(b: &OpBuilder<'_>, floats: impl Unary + Copy + Send + 'static, ints: fn(i64) -> i64) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| {
        let x = f.array(x)?;
        if x.dtype().is_int() { one(map_ints(&x, ints)?) } else { one(map(&x, floats)?) }
    })
}

/// A function with an `epsilon` that keeps it away from a pole, added in f32 as specified.
fn epsilon<F: Unary + Copy + Send + 'static>(
    b: &OpBuilder<'_>,
    default: f32,
    with: fn(f32) -> F,
) -> Result<Run, OpError> {
    let apply = with(b.attr_or("epsilon", default)?);
    float(b, apply)
}

fn logical_not(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let data = x.to_bools()?.into_iter().map(|v| v ^ 1).collect();
        one(Array::from_bool(data, x.shape(), f.device())?)
    })
}

/// `clip(x, alpha, beta)`: clamps to `alpha ..= beta`.
fn clip(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (low, high) = (b.attr::<f32>("alpha")?, b.attr::<f32>("beta")?);
    b.run(move |f| {
        let x = f.array(x)?;
        if x.dtype().is_int() {
            return one(map_ints(&x, |v| v.max(low.ceil() as i64).min(high.floor() as i64))?);
        }
        let above = move |v| if v < low { low } else { v };
        one(map(&x, move |v| if above(v) > high { high } else { above(v) })?)
    })
}

/// `threshold(x, alpha)`: max(x, alpha).
fn threshold(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let alpha = b.attr::<f32>("alpha")?;
    b.run(move |f| {
        let x = f.array(x)?;
        if x.dtype().is_int() {
            return one(map_ints(&x, |v| v.max(alpha.ceil() as i64))?);
        }
        one(map(&x, move |v| if v < alpha { alpha } else { v })?)
    })
}

/// Wraps an integer to the width of its type, like a narrowing conversion.
pub(super) fn wrap(value: i64, dtype: DataType) -> i64 {
    match dtype {
        DataType::I8 => i64::from(value as i8),
        DataType::U8 => i64::from(value as u8),
        DataType::I16 => i64::from(value as i16),
        DataType::U16 => i64::from(value as u16),
        DataType::I32 => i64::from(value as i32),
        DataType::U32 => i64::from(value as u32),
        _ => value,
    }
}

/// Converts a float to an integer type as Apple's processors do: truncates, saturates to 32 bits (64 for wider types),
/// maps NaN to zero; narrower types keep the low bits.
fn truncated(value: f32, dtype: DataType) -> i64 {
    match dtype {
        DataType::I64 | DataType::U64 => value as i64,
        DataType::U32 => i64::from(value as u32),
        _ => wrap(i64::from(value as i32), dtype),
    }
}

/// `cast(x, dtype)`: floats are truncated; fp16 rounds to nearest even and overflows to infinity.
fn cast(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let name: String = b.attr("dtype")?;
    let dtype =
        DataType::from_name(&name).ok_or_else(|| OpError::data(format!("cast to the unknown type `{name}`")))?;
    b.run(move |f| {
        let x = f.array(x)?;
        one(convert(&x, dtype)?)
    })
}

/// Converts the element type.
pub(super) fn convert(x: &Array, dtype: DataType) -> Result<Array, OpError> {
    let from = x.dtype();
    let device = x.tensor().device();
    if from == dtype {
        return Ok(x.clone());
    }
    match dtype {
        DataType::Bool => {
            let data = x.to_bools()?;
            Array::from_bool(data, x.shape(), device)
        }
        DataType::F16 if from != DataType::F16 => {
            let rounded = layout::rounded(&x.tensor().counted_to_dtype(DType::F32)?)?;
            Array::new(rounded, dtype)
        }
        d if d.is_float() => Array::new(x.tensor().clone(), d),
        d if d.is_int() => {
            let data = if from.is_float() {
                x.with_rows(|x| budget::collect(x.iter().map(|&v| truncated(v, d))))??
            } else {
                x.with_i64s(|x| budget::collect(x.iter().map(|&v| wrap(v, d))))??
            };
            Array::from_i64(data, x.shape(), d, device)
        }
        other => Err(OpError::Unsupported(format!("cast to {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn round_goes_to_even() {
        let y = of("tensor<fp32, [5]> y = round(x = x);", &[5], &[0.5, 1.5, -0.5, -2.5, 2.4]);
        near(&y, &[0.0, 2.0, 0.0, -2.0, 2.0]);
    }

    #[test]
    fn inverse_log_and_rsqrt_have_an_epsilon() {
        near(&of("tensor<fp32, [1]> y = inverse(x = x, epsilon = fp32(0.25));", &[1], &[0.0]), &[4.0]);
        near(&of("tensor<fp32, [1]> y = log(x = x, epsilon = fp32(1));", &[1], &[0.0]), &[0.0]);
        near(&of("tensor<fp32, [1]> y = rsqrt(x = x, epsilon = fp32(0.25));", &[1], &[0.0]), &[2.0]);
    }

    #[test]
    fn cast_truncates_towards_zero() {
        let body = "tensor<int32, [4]> i = cast(x = x, dtype = string(\"int32\")); tensor<fp32, [4]> y = cast(x = i, dtype = string(\"fp32\"));";
        near(&of(body, &[4], &[1.9, -1.9, 0.5, -0.5]), &[1.0, -1.0, 0.0, 0.0]);
    }

    #[test]
    fn clip_and_threshold_bound() {
        let y = of("tensor<fp32, [3]> y = clip(x = x, alpha = fp32(-1), beta = fp32(2));", &[3], &[-5.0, 0.5, 5.0]);
        near(&y, &[-1.0, 0.5, 2.0]);
        near(&of("tensor<fp32, [2]> y = threshold(x = x, alpha = fp32(1));", &[2], &[-5.0, 5.0]), &[1.0, 5.0]);
    }
}
