//! Operations on whole tensors: concatenation, splitting, sorting, padding, generation.
//!
//! Semantics follow the reference documentation of coremltools' `tensor_operation` chapter.

use candle_core::{DType, Tensor};
use coreml_format::dtype::DataType;
use coreml_kernels::gather::{AxisIndices, FILL};
use coreml_kernels::reduce::{Running, running_sum};

use super::elementwise_unary::convert;
use crate::array::{Array, storage_dtype};
use crate::batch;
use crate::budget::{self, Counted, collect_most};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::rearrange::{join, pick};
use crate::shape::{check_size, resolve_axis};
use crate::value::Value;

mod one_hot;
mod sorting;
mod suppression;

pub(super) use suppression::nms;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("argsort", IOS15, sorting::argsort).kernel("packed-key sort"),
    OpSpec::new("band_part", IOS15, band_part),
    OpSpec::new("concat", IOS15, concat).batch(batch::concat).kernel("gather"),
    OpSpec::new("cumsum", IOS15, cumsum).kernel("reduction, vectorised"),
    OpSpec::new("fill", IOS15, fill),
    OpSpec::new("fill_like", IOS16, fill_like),
    OpSpec::new("flatten2d", IOS15, flatten2d),
    OpSpec::elementwise("identity", IOS15, identity),
    OpSpec::new("non_maximum_suppression", IOS15_17, suppression::nms),
    OpSpec::new("non_zero", IOS15, non_zero),
    OpSpec::new("one_hot", IOS15, one_hot::one_hot),
    OpSpec::new("pad", IOS15, pad).kernel("gather"),
    OpSpec::new("range_1d", IOS15, range_1d),
    OpSpec::new("shape", IOS15, shape),
    OpSpec::new("split", IOS15, split),
    OpSpec::new("stack", IOS15, stack).kernel("gather"),
    OpSpec::new("tile", IOS15, tile).kernel("gather"),
    OpSpec::new("topk", IOS15_16_17, sorting::topk).kernel("packed-key sort"),
];

/// `identity(x)`.
fn identity(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| Ok(vec![f.value(x)?.clone()]))
}

/// Concatenates integer scalars or vectors, such as slice positions recomputed in each prediction.
fn small_integers(arrays: &[Array]) -> Result<Option<Array>, OpError> {
    const MANY: usize = 16;
    let (first, count) = (&arrays[0], arrays.iter().map(|a| a.tensor().elem_count()).sum::<usize>());
    let alike = |a: &Array| a.rank() <= 1 && a.rank() == first.rank() && a.dtype() == first.dtype();
    if count > MANY || first.tensor().dtype() != DType::I64 || !arrays.iter().all(alike) {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(count);
    for a in arrays {
        all.extend(a.to_i64s()?);
    }
    Array::from_i64(all, &[count], first.dtype(), first.tensor().device()).map(Some)
}

/// `concat(values, axis, interleave = false)`. Scalars form a vector.
fn concat(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let values = b.slots("values")?;
    let axis = b.param_or("axis", 0i64)?;
    let interleave = b.attr_or("interleave", false)?;
    b.run(move |f| {
        let arrays = values.iter().map(|&s| f.array(s)).collect::<Result<Vec<_>, _>>()?;
        let first = arrays.first().ok_or_else(|| OpError::shape("concat of nothing"))?;
        let axis = resolve_axis(*axis.get(f)?, first.rank().max(1))?;
        if !interleave && let Some(vector) = small_integers(&arrays)? {
            return one(vector);
        }
        let dtype = arrays.iter().map(Array::dtype).find(|d| d.is_float()).unwrap_or(first.dtype());
        let storage = storage_dtype(dtype).ok_or_else(|| OpError::data("concat of strings"))?;
        let mut parts = Vec::with_capacity(arrays.len());
        for a in &arrays {
            if a.rank() != first.rank() {
                return Err(OpError::shape(format!("concat of shapes {:?} and {:?}", first.shape(), a.shape())));
            }
            let part = a.tensor().counted_to_dtype(storage)?;
            if a.rank() == 0 {
                parts.push(part.reshape(1)?);
            } else if a.shape()[axis] != 0 {
                parts.push(part);
            }
        }
        let t = match parts.as_slice() {
            [] => first.tensor().clone(),
            [only] => only.clone(),
            many if interleave => interleaved(many, axis)?,
            many => join(many, axis)?,
        };
        one(Array::new(t, dtype)?)
    })
}

/// a₀ b₀ c₀ a₁ b₁ c₁ …
fn interleaved(parts: &[Tensor], axis: usize) -> Result<Tensor, OpError> {
    let stacked = stacked(parts, axis + 1)?;
    let mut shape = parts[0].dims().to_vec();
    shape[axis] *= parts.len();
    layout::reshape(&stacked, &shape)
}

/// Stacks tensors of one shape along a new dimension.
fn stacked(parts: &[Tensor], axis: usize) -> Result<Tensor, OpError> {
    if let Some(other) = parts.iter().find(|p| p.dims() != parts[0].dims()) {
        return Err(OpError::shape(format!("shapes {:?} and {:?} do not stack", parts[0].dims(), other.dims())));
    }
    let parts = parts.iter().map(|p| p.unsqueeze(axis)).collect::<Result<Vec<_>, _>>()?;
    join(&parts, axis)
}

/// `stack(values, axis)`.
fn stack(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let values = b.slots("values")?;
    let axis = b.attr::<i64>("axis")?;
    b.run(move |f| {
        let arrays = values.iter().map(|&s| f.array(s)).collect::<Result<Vec<_>, _>>()?;
        let first = arrays.first().ok_or_else(|| OpError::shape("stack of nothing"))?;
        let axis = resolve_axis(axis, first.rank() + 1)?;
        let tensors: Vec<Tensor> = arrays.iter().map(|a| a.tensor().clone()).collect();
        one(first.with(stacked(&tensors, axis)?))
    })
}

/// `split(x, num_splits? | split_sizes?, axis)`.
fn split(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.attr::<i64>("axis")?;
    let sizes = b.param_opt::<Vec<i64>>("split_sizes")?;
    let count = b.attr_opt::<i64>("num_splits")?;
    let outputs = b.op().outputs.len();
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(axis, x.rank())?;
        let n = x.shape()[axis];
        let sizes: Vec<usize> = match &sizes {
            Some(s) => {
                let s = s.get(f)?;
                s.iter()
                    .map(|&v| usize::try_from(v).map_err(|_| OpError::shape(format!("a part of {v}"))))
                    .collect::<Result<_, _>>()?
            }
            None => {
                let count = count.and_then(|c| usize::try_from(c).ok()).filter(|&c| c > 0 && n.is_multiple_of(c));
                let count = count.ok_or_else(|| OpError::shape(format!("an extent of {n} does not split evenly")))?;
                vec![n / count; count]
            }
        };
        let total = sizes.iter().fold(0usize, |sum, &size| sum.saturating_add(size));
        if total != n || sizes.len() != outputs {
            return Err(OpError::shape(format!("parts {sizes:?} of an extent of {n} for {outputs} outputs")));
        }
        let mut at = 0;
        sizes
            .iter()
            .map(|&size| {
                let part = x.tensor().narrow(axis, at, size)?;
                at += size;
                Ok(Value::Array(x.with(part)))
            })
            .collect()
    })
}

/// `tile(x, reps)`.
fn tile(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let reps = b.param::<Vec<i64>>("reps")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let reps = reps.get(f)?;
        if reps.len() != x.rank() || reps.iter().any(|&r| r < 0) {
            return Err(OpError::shape(format!("repetitions {reps:?} of shape {:?}", x.shape())));
        }
        let shape: Vec<usize> =
            x.shape().iter().zip(reps.iter()).map(|(&n, &r)| n.saturating_mul(r as usize)).collect();
        check_size(&shape)?;
        let place = |(&n, &r): (&usize, &i64)| match r {
            1 => Ok(AxisIndices::Run(0..n)),
            _ => {
                let count = n.saturating_mul(r as usize);
                Ok(AxisIndices::At(collect_most(count, (0..r).flat_map(|_| 0..n))?))
            }
        };
        let places = x.shape().iter().zip(reps.iter()).map(place).collect::<Result<Vec<_>, OpError>>()?;
        one(x.with(pick(x.tensor(), &places, None)?))
    })
}

/// `shape(x)`: as int32.
fn shape(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| {
        let dims: Vec<i64> = f.array(x)?.shape().iter().map(|&n| n as i64).collect();
        let n = dims.len();
        one(Array::from_i64(dims, &[n], DataType::I32, f.device())?)
    })
}

fn fill_with(shape: &[i64], value: &Array, device: &candle_core::Device) -> Result<Array, OpError> {
    let shape: Vec<usize> = shape
        .iter()
        .map(|&n| usize::try_from(n).map_err(|_| OpError::shape(format!("fill of shape {shape:?}"))))
        .collect::<Result<_, _>>()?;
    let count = check_size(&shape)?;
    let tensor = if shape.contains(&0) {
        Tensor::zeros(shape, value.tensor().dtype(), device)?
    } else {
        budget::claim(count.saturating_mul(value.tensor().dtype().size_in_bytes()))?;
        value.tensor().flatten_all()?.narrow(0, 0, 1)?.reshape(())?.broadcast_as(shape)?.contiguous()?
    };
    Ok(value.with(tensor))
}

/// `fill(shape, value = 0.0)`.
fn fill(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let shape = b.param::<Vec<i64>>("shape")?;
    let value = b.slot_opt("value")?;
    b.run(move |f| {
        let value = match value {
            Some(v) => f.array(v)?,
            None => Array::from_f32(vec![0.0], &[], DataType::F32, f.device())?,
        };
        one(fill_with(&shape.get(f)?, &value, f.device())?)
    })
}

/// `fill_like(ref_tensor, value = 0.0)`.
fn fill_like(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let like = b.slot("ref_tensor")?;
    let value = b.slot_opt("value")?;
    b.run(move |f| {
        let shape: Vec<i64> = f.array(like)?.shape().iter().map(|&n| n as i64).collect();
        let value = match value {
            Some(v) => f.array(v)?,
            None => Array::from_f32(vec![0.0], &[], DataType::F32, f.device())?,
        };
        one(fill_with(&shape, &value, f.device())?)
    })
}

/// `flatten2d(x, axis = 1)`.
fn flatten2d(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.attr_or("axis", 1i64)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let rank = x.rank() as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        if !(0..=rank).contains(&axis) {
            return Err(OpError::shape(format!("axis {axis} of rank {rank}")));
        }
        let (head, tail) = x.shape().split_at(axis as usize);
        let shape = [head.iter().product::<usize>(), tail.iter().product::<usize>()];
        one(x.with(layout::reshape(x.tensor(), &shape)?))
    })
}

/// Zero in an array's representation.
fn zero_of(x: &Array) -> Result<Tensor, OpError> {
    Ok(Tensor::zeros((), x.tensor().dtype(), x.tensor().device())?)
}

/// `band_part(x, lower = -1, upper = -1)`: keeps elements near the diagonal of the last two dimensions.
fn band_part(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (lower, upper) = (b.attr_or("lower", -1i64)?, b.attr_or("upper", -1i64)?);
    b.run(move |f| {
        let x = f.array(x)?;
        if x.rank() < 2 {
            return Err(OpError::shape("band_part of a tensor without rows and columns"));
        }
        let (rows, cols) = (x.shape()[x.rank() - 2], x.shape()[x.rank() - 1]);
        let keep = |i: usize, j: usize| {
            let (i, j) = (i as i64, j as i64);
            (lower < 0 || i - j <= lower) && (upper < 0 || j - i <= upper)
        };
        let mask = collect_most(rows * cols, (0..rows).flat_map(|i| (0..cols).map(move |j| u8::from(keep(i, j)))))?;
        let mask = Tensor::from_vec(mask, (rows, cols), f.device())?.broadcast_as(x.shape())?;
        let zeros = zero_of(&x)?.broadcast_as(x.shape())?;
        budget::claim(x.bytes())?;
        one(x.with(mask.where_cond(x.tensor(), &zeros)?))
    })
}

/// `cumsum(x, axis = 0, exclusive = false, reverse = false)`.
fn cumsum(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.param_or("axis", 0i64)?;
    let (exclusive, reverse) = (b.attr_or("exclusive", false)?, b.attr_or("reverse", false)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        let (n, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
        if x.dtype().is_float() {
            let running = Running { exclusive, reverse };
            budget::claim(x.bytes())?;
            let sums = |data: &[f32], extents| running_sum(data, extents, running);
            return match layout::along(x.tensor(), &[axis], sums)? {
                Some((data, order)) => one(x.with(layout::from_memory(data, x.shape(), &order, x.tensor())?)),
                None => {
                    let outer = x.shape()[..axis].iter().product();
                    let data = sums(&x.to_f32s()?, [outer, n, inner]);
                    one(Array::from_f32(data, x.shape(), x.dtype(), f.device())?)
                }
            };
        }
        let mut data = x.to_i64s()?;
        for block in data.chunks_mut((n * inner).max(1)) {
            for j in 0..inner {
                let mut sum = 0i64;
                for i in 0..n {
                    let at = if reverse { n - 1 - i } else { i } * inner + j;
                    let before = sum;
                    sum = sum.wrapping_add(block[at]);
                    block[at] = if exclusive { before } else { sum };
                }
            }
        }
        one(Array::from_i64(data, x.shape(), x.dtype(), f.device())?)
    })
}

/// `non_zero(x)`: indices `[count, rank]` of the nonzero elements.
fn non_zero(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let strides = crate::weight::strides(x.shape());
        let flags = x.to_bools()?;
        let count = flags.iter().filter(|&&flag| flag != 0).count();
        let mut out = budget::room(count.saturating_mul(x.rank()))?;
        for (i, flag) in flags.into_iter().enumerate() {
            if flag != 0 {
                out.extend(strides.iter().zip(x.shape()).map(|(s, n)| (i / s % n) as i64));
            }
        }
        one(Array::from_i64(out, &[count, x.rank()], DataType::I32, f.device())?)
    })
}

/// `range_1d(start, end, step)`.
fn range_1d(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (start, end, step) = (b.slot("start")?, b.slot("end")?, b.slot("step")?);
    b.run(move |f| {
        let (start, end, step) = (f.array(start)?, f.array(end)?, f.array(step)?);
        let read = |a: &Array| -> Result<f64, OpError> {
            let first = if a.dtype().is_float() {
                a.to_f32s()?.first().map(|&v| f64::from(v))
            } else {
                a.to_i64s()?.first().map(|&v| v as f64)
            };
            first.ok_or_else(|| OpError::shape("an empty bound"))
        };
        let (from, to, by) = (read(&start)?, read(&end)?, read(&step)?);
        let count = ((to - from) / by).ceil();
        if by == 0.0 || count.is_nan() {
            return Err(OpError::data(format!("a range from {from} to {to} by {by}")));
        }
        let count = check_size(&[count.max(0.0) as usize])?;
        let values = (0..count).map(|i| from + by * i as f64);
        if start.dtype().is_float() {
            let values = budget::collect(values.map(|v| v as f32))?;
            return one(Array::from_f32(values, &[count], start.dtype(), f.device())?);
        }
        one(Array::from_i64(budget::collect(values.map(|v| v as i64))?, &[count], start.dtype(), f.device())?)
    })
}

/// Fill mode beyond the ends of a padded dimension.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Constant,
    Reflect,
    Replicate,
}

/// Source index of each position of a padded dimension; the fill marker for constants.
fn padded(n: usize, before: i64, after: i64, mode: Mode) -> Result<Vec<usize>, OpError> {
    let bad = || OpError::shape(format!("padding of {before} and {after} for an extent of {n}"));
    // Amounts are declared as 32 bits, which keeps the sums below from overflowing.
    if i32::try_from(before).is_err() || i32::try_from(after).is_err() {
        return Err(bad());
    }
    let len = i64::try_from(n).map_err(|_| bad())?;
    let count = check_size(&[usize::try_from(len + before + after).map_err(|_| bad())?])?;
    let mut all = budget::room(count)?;
    let place = |i: i64| {
        if (0..len).contains(&i) {
            return Ok(i as usize);
        }
        let source = match mode {
            Mode::Constant => return Ok(FILL),
            Mode::Replicate => i.max(0).min(len - 1),
            Mode::Reflect => {
                if i < 0 {
                    -i
                } else {
                    2 * (len - 1) - i
                }
            }
        };
        if (0..len).contains(&source) {
            Ok(source as usize)
        } else {
            Err(OpError::shape(format!("padding of {before} and {after} by {mode:?} for an extent of {n}")))
        }
    };
    for i in -before..len + after {
        all.push(place(i)?);
    }
    Ok(all)
}

/// `pad(x, pad, mode = "constant", constant_val = 0)`: `pad` has pairs for the last dimensions.
fn pad(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let amounts = b.param::<Vec<i64>>("pad")?;
    let modes = [("constant", Mode::Constant), ("reflect", Mode::Reflect), ("replicate", Mode::Replicate)];
    let mode = b.choice("mode", &modes)?;
    let value = b.slot_opt("constant_val")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let amounts = amounts.get(f)?;
        let dims = amounts.len() / 2;
        if dims > x.rank() || amounts.len() % 2 != 0 {
            return Err(OpError::shape(format!("padding {amounts:?} of shape {:?}", x.shape())));
        }
        let fill = match value {
            Some(v) => convert(&f.array(v)?, x.dtype())?,
            None => Array::new(Tensor::zeros((), DType::F32, f.device())?, x.dtype())?,
        };
        let mut places: Vec<AxisIndices> = x.shape().iter().map(|&n| AxisIndices::Run(0..n)).collect();
        for k in 0..dims {
            let (d, before, after) = (x.rank() - dims + k, amounts[2 * k], amounts[2 * k + 1]);
            if before != 0 || after != 0 {
                places[d] = AxisIndices::At(padded(x.shape()[d], before, after, mode)?);
            }
        }
        one(x.with(pick(x.tensor(), &places, Some(fill.tensor()))?))
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn pad_reflects_without_the_edge_and_replicates_it() {
        let body = |mode: &str| {
            format!(
                "tensor<fp32, [6]> y = pad(x = x, pad = tensor<int32, [2]>([2, 1]), mode = string(\"{mode}\"), constant_val = fp32(9));"
            )
        };
        let x = [1.0, 2.0, 3.0];
        near(&of(&body("constant"), &[3], &x), &[9.0, 9.0, 1.0, 2.0, 3.0, 9.0]);
        near(&of(&body("reflect"), &[3], &x), &[3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
        near(&of(&body("replicate"), &[3], &x), &[1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn concat_interleaves() {
        let body = |interleave: bool| {
            format!(
                "tensor<fp32, [4]> y = concat(values = (x, tensor<fp32, [2]>([7, 8])), axis = int32(0), interleave = bool({interleave}));"
            )
        };
        near(&of(&body(false), &[2], &[1.0, 2.0]), &[1.0, 2.0, 7.0, 8.0]);
        near(&of(&body(true), &[2], &[1.0, 2.0]), &[1.0, 7.0, 2.0, 8.0]);
    }
}
