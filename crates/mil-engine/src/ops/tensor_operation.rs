//! Operations on whole tensors: joining, splitting, sorting, padding, generating.
//!
//! Semantics after the reference documentation of coremltools' `tensor_operation` chapter.

use candle_core::{DType, Tensor};
use coreml_format::dtype::DataType;
use coreml_format::program::Opset;
use mil_kernels::parallel;
use mil_kernels::pick::{NOWHERE, Places};
use mil_kernels::rank;
use mil_kernels::reduce::{Running, running_sum};

use super::elementwise_unary::convert;
use super::reduction::index_dtype;
use super::{OpSpec, since::*};
use crate::budget::{self, Counted, claim_of, collect_most};
use crate::build::{Build, Run, check_size, one, resolve_axis};
use crate::error::OpError;
use crate::layout;
use crate::rearrange::{join, pick, pick_along};
use crate::value::{Array, Value, storage_dtype, with_f32s};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("argsort", IOS15, argsort),
    OpSpec::new("band_part", IOS15, band_part),
    OpSpec::new("concat", IOS15, concat),
    OpSpec::new("cumsum", IOS15, cumsum),
    OpSpec::new("fill", IOS15, fill),
    OpSpec::new("fill_like", IOS16, fill_like),
    OpSpec::new("flatten2d", IOS15, flatten2d),
    OpSpec::new("identity", IOS15, identity),
    OpSpec::new("non_maximum_suppression", IOS15_17, nms),
    OpSpec::new("non_zero", IOS15, non_zero),
    OpSpec::new("one_hot", IOS15, one_hot),
    OpSpec::new("pad", IOS15, pad),
    OpSpec::new("range_1d", IOS15, range_1d),
    OpSpec::new("shape", IOS15, shape),
    OpSpec::new("split", IOS15, split),
    OpSpec::new("stack", IOS15, stack),
    OpSpec::new("tile", IOS15, tile),
    OpSpec::new("topk", IOS15_16_17, topk),
];

/// `identity(x)`.
fn identity(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| Ok(vec![f.value(x)?.clone()]))
}

/// Scalars or vectors of integers as one vector: positions of a slice, computed again in each prediction.
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

/// `concat(values, axis, interleave = false)`. Scalars make a vector.
fn concat(b: &Build<'_>) -> Result<Run, OpError> {
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

/// Tensors of one shape along a new dimension.
fn stacked(parts: &[Tensor], axis: usize) -> Result<Tensor, OpError> {
    if let Some(other) = parts.iter().find(|p| p.dims() != parts[0].dims()) {
        return Err(OpError::shape(format!("shapes {:?} and {:?} do not stack", parts[0].dims(), other.dims())));
    }
    let parts = parts.iter().map(|p| p.unsqueeze(axis)).collect::<Result<Vec<_>, _>>()?;
    join(&parts, axis)
}

/// `stack(values, axis)`.
fn stack(b: &Build<'_>) -> Result<Run, OpError> {
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
fn split(b: &Build<'_>) -> Result<Run, OpError> {
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
fn tile(b: &Build<'_>) -> Result<Run, OpError> {
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
            1 => Ok(Places::Run(0..n)),
            _ => {
                let count = n.saturating_mul(r as usize);
                Ok(Places::At(collect_most(count, (0..r).flat_map(|_| 0..n))?))
            }
        };
        let places = x.shape().iter().zip(reps.iter()).map(place).collect::<Result<Vec<_>, OpError>>()?;
        one(x.with(pick(x.tensor(), &places, None)?))
    })
}

/// `shape(x)`: as int32.
fn shape(b: &Build<'_>) -> Result<Run, OpError> {
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
fn fill(b: &Build<'_>) -> Result<Run, OpError> {
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
fn fill_like(b: &Build<'_>) -> Result<Run, OpError> {
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
fn flatten2d(b: &Build<'_>) -> Result<Run, OpError> {
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

/// The tensor with `axis` last, in row-major order, and the indices of the first `k` of each of its rows.
fn ranked(x: &Array, axis: usize, k: usize, ascending: bool) -> Result<(Tensor, Vec<usize>), OpError> {
    let n = x.shape()[axis];
    if u32::try_from(n).is_err() {
        return Err(OpError::TooLarge { shape: x.shape().to_vec(), limit: u32::MAX as usize });
    }
    let moved = layout::contiguous(&x.tensor().transpose(axis, x.rank() - 1)?)?;
    if moved.elem_count() == 0 {
        return Ok((moved, Vec::new()));
    }
    claim_of::<usize>((moved.elem_count() / n).saturating_mul(k))?;
    // The words of a row, for each thread.
    let wide = if x.dtype().is_float() { size_of::<u64>() } else { size_of::<u128>() };
    let row = n.saturating_mul(wide * 2);
    let _words = budget::lent(row.saturating_mul(parallel::threads().min(moved.elem_count() / n)))?;
    let order = match with_f32s(&moved, |data| rank::first(data, n, k, ascending)) {
        Some(order) => order,
        None if x.dtype().is_float() => rank::first(&x.with(moved.clone()).to_f32s()?, n, k, ascending),
        None => rank::first(&x.with(moved.clone()).to_i64s()?, n, k, ascending),
    };
    Ok((moved, order))
}

/// Indices along the last dimension of `shape`, moved back to `axis`.
fn indices(
    data: Vec<usize>,
    shape: &[usize],
    axis: usize,
    dtype: DataType,
    device: &candle_core::Device,
) -> Result<Array, OpError> {
    let data = budget::collect(data.into_iter().map(|i| i as i64))?;
    let array = Array::from_i64(data, shape, dtype, device)?;
    let t = layout::contiguous(&array.tensor().transpose(axis, shape.len() - 1)?)?;
    Ok(array.with(t))
}

/// `argsort(x, axis = -1, ascending = false)`: stable.
fn argsort(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.attr_or("axis", -1i64)?;
    let ascending = b.attr_or("ascending", false)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(axis, x.rank())?;
        let (moved, order) = ranked(&x, axis, x.shape()[axis], ascending)?;
        one(indices(order, moved.dims(), axis, DataType::I32, f.device())?)
    })
}

/// `topk(x, k = 1, axis = -1, ascending = false, sort = true (iOS16), return_indices = true (iOS16),
/// output_indices_dtype = "int32" (iOS17))`: sorted also where the program leaves the order open.
fn topk(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let k = b.param_or("k", 1i64)?;
    let axis = b.attr_or("axis", -1i64)?;
    let ascending = b.attr_or("ascending", false)?;
    b.attr_since(Opset::Ios16, "sort", true)?;
    let wanted = b.attr_since(Opset::Ios16, "return_indices", true)?;
    let index_dtype = index_dtype(b, "output_indices_dtype")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(axis, x.rank())?;
        let n = x.shape()[axis];
        let k = *k.get(f)?;
        let k = if k == -1 { n } else { usize::try_from(k).unwrap_or(usize::MAX) };
        if k > n {
            return Err(OpError::shape(format!("the best {k} of {n}")));
        }
        let (moved, order) = ranked(&x, axis, k, ascending)?;
        let last = x.rank() - 1;
        let values = pick_along(&moved, last, &order, k)?.transpose(axis, last)?;
        let mut all = vec![Value::Array(x.with(values))];
        if wanted {
            let mut shape = moved.dims().to_vec();
            shape[last] = k;
            all.push(Value::Array(indices(order, &shape, axis, index_dtype, f.device())?));
        }
        Ok(all)
    })
}

/// The zero of an array's representation.
fn zero_of(x: &Array) -> Result<Tensor, OpError> {
    Ok(Tensor::zeros((), x.tensor().dtype(), x.tensor().device())?)
}

/// `band_part(x, lower = -1, upper = -1)`: the elements of the last two dimensions near the diagonal.
fn band_part(b: &Build<'_>) -> Result<Run, OpError> {
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
fn cumsum(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.attr_or("axis", 0i64)?;
    let (exclusive, reverse) = (b.attr_or("exclusive", false)?, b.attr_or("reverse", false)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(axis, x.rank())?;
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

/// `non_zero(x)`: the indices `[count, rank]` of the elements that are not zero.
fn non_zero(b: &Build<'_>) -> Result<Run, OpError> {
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

/// `one_hot(indices, one_hot_vector_size, axis = -1, on_value = 1, off_value = 0)`.
fn one_hot(b: &Build<'_>) -> Result<Run, OpError> {
    let index = b.slot("indices")?;
    let size = b.param::<i64>("one_hot_vector_size")?;
    let axis = b.attr_or("axis", -1i64)?;
    let (on, off) = (b.attr_or("on_value", 1f32)?, b.attr_or("off_value", 0f32)?);
    let dtype = b.output_dtype(0)?;
    b.run(move |f| {
        let index = f.array(index)?;
        let size = usize::try_from(*size.get(f)?).map_err(|_| OpError::shape("a negative vector size"))?;
        let axis = resolve_axis(axis, index.rank() + 1)?;
        let mut shape = index.shape().to_vec();
        shape.push(size);
        let mut data = budget::room(check_size(&shape)?)?;
        for i in index.to_i64s()? {
            let i = if i < 0 { i + size as i64 } else { i };
            data.extend((0..size).map(|k| if k as i64 == i { on } else { off }));
        }
        let t = Tensor::from_vec(data, shape.as_slice(), f.device())?;
        // The new dimension moves from the end to `axis`.
        let mut order: Vec<usize> = (0..index.rank()).collect();
        order.insert(axis, index.rank());
        one(Array::new(t.permute(order)?.counted_contiguous()?, dtype)?)
    })
}

/// `range_1d(start, end, step)`.
fn range_1d(b: &Build<'_>) -> Result<Run, OpError> {
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

/// What lies beyond the ends of a padded dimension.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Constant,
    Reflect,
    Replicate,
}

/// Source position of each position of a padded dimension, nowhere for the constant.
fn padded(n: usize, before: i64, after: i64, mode: Mode) -> Result<Vec<usize>, OpError> {
    let bad = || OpError::shape(format!("padding of {before} and {after} for an extent of {n}"));
    // Amounts of 32 bits, as programs declare them, leave room for the sums below.
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
            Mode::Constant => return Ok(NOWHERE),
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

/// `pad(x, pad, mode = "constant", constant_val = 0)`: `pad` holds pairs for the last dimensions.
fn pad(b: &Build<'_>) -> Result<Run, OpError> {
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
        let mut places: Vec<Places> = x.shape().iter().map(|&n| Places::Run(0..n)).collect();
        for k in 0..dims {
            let (d, before, after) = (x.rank() - dims + k, amounts[2 * k], amounts[2 * k + 1]);
            if before != 0 || after != 0 {
                places[d] = Places::At(padded(x.shape()[d], before, after, mode)?);
            }
        }
        one(x.with(pick(x.tensor(), &places, Some(fill.tensor()))?))
    })
}

/// The tensor with its last two dimensions exchanged.
fn swap_last(x: &Array) -> Result<Array, OpError> {
    if x.rank() < 2 {
        return Err(OpError::shape(format!("boxes or scores of shape {:?}", x.shape())));
    }
    Ok(x.with(x.tensor().transpose(x.rank() - 2, x.rank() - 1)?.counted_contiguous()?))
}

/// Intersection over union of two boxes (x, y, width, height around the centre).
fn iou(a: &[f32], b: &[f32]) -> f32 {
    let (lo, hi) = (|v: &[f32], d: usize| v[d] - v[d + 2] / 2.0, |v: &[f32], d: usize| v[d] + v[d + 2] / 2.0);
    let overlap = |d: usize| (hi(a, d).min(hi(b, d)) - lo(a, d).max(lo(b, d))).max(0.0);
    let both = overlap(0) * overlap(1);
    let total = a[2] * a[3] + b[2] * b[3] - both;
    if total > 0.0 { both / total } else { 0.0 }
}

/// `non_maximum_suppression(boxes, scores, iou_threshold, score_threshold, max_boxes, per_class_suppression
/// = false)` → boxes `[n, max, 4]`, scores `[n, max, K]`, indices, number of boxes.
///
/// Since iOS 17 without `score_threshold` and the number of boxes, and with the boxes along the last
/// dimension: `[n, 4, B]` and `[n, K, B]`.
fn nms(b: &Build<'_>) -> Result<Run, OpError> {
    let (boxes, scores) = (b.slot("boxes")?, b.slot("scores")?);
    let boxes_last = b.opset() >= Opset::Ios17;
    let iou_limit = b.attr::<f32>("iou_threshold")?;
    let score_limit = if boxes_last { None } else { Some(b.attr::<f32>("score_threshold")?) };
    let most = usize::try_from(b.attr::<i64>("max_boxes")?).map_err(|_| OpError::shape("a negative `max_boxes`"))?;
    let per_class = b.attr_or("per_class_suppression", false)?;
    b.run(move |f| {
        let (mut boxes, mut scores) = (f.array(boxes)?, f.array(scores)?);
        if boxes_last {
            (boxes, scores) = (swap_last(&boxes)?, swap_last(&scores)?);
        }
        let (&[batch, count, 4], &[_, _, classes]) = (boxes.shape(), scores.shape()) else {
            return Err(OpError::shape(format!("boxes {:?}, scores {:?}", boxes.shape(), scores.shape())));
        };
        if scores.shape()[..2] != [batch, count] {
            return Err(OpError::shape(format!("boxes {:?}, scores {:?}", boxes.shape(), scores.shape())));
        }
        check_size(&[batch, most, classes.max(4)])?;
        let (all_boxes, all_scores) = (boxes.to_f32s()?, scores.to_f32s()?);
        let mut out_boxes = budget::filled(0f32, batch * most * 4)?;
        let mut out_scores = budget::filled(0f32, batch * most * classes)?;
        let mut out_index = budget::filled(-1i64, batch * most)?;
        let mut numbers = budget::filled(0i64, batch)?;
        // The order of the boxes of an image, those that are kept, and what sorting takes. Each box meets all that are
        // kept, and their best classes are looked for each time.
        let _order = budget::lent(count.saturating_mul(4 * size_of::<usize>()))?;
        budget::products(&[batch, count, most.min(count), if per_class { 4 + 2 * classes } else { 4 }])?;
        for n in 0..batch {
            let boxes = &all_boxes[n * count * 4..(n + 1) * count * 4];
            let scores = &all_scores[n * count * classes..(n + 1) * count * classes];
            let best = |i: usize| {
                let row = &scores[i * classes..(i + 1) * classes];
                row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (c, &s)| if s > b.1 { (c, s) } else { b })
            };
            let mut order: Vec<usize> = (0..count).filter(|&i| score_limit.is_none_or(|s| best(i).1 > s)).collect();
            order.sort_by(|&a, &b| best(b).1.total_cmp(&best(a).1));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() == most {
                    break;
                }
                let clash = |&k: &usize| {
                    (!per_class || best(k).0 == best(i).0)
                        && iou(&boxes[k * 4..k * 4 + 4], &boxes[i * 4..i * 4 + 4]) > iou_limit
                };
                if !kept.iter().any(clash) {
                    kept.push(i);
                }
            }
            numbers[n] = kept.len() as i64;
            for (slot, &i) in kept.iter().enumerate() {
                let at = n * most + slot;
                out_boxes[at * 4..at * 4 + 4].copy_from_slice(&boxes[i * 4..i * 4 + 4]);
                out_scores[at * classes..(at + 1) * classes].copy_from_slice(&scores[i * classes..(i + 1) * classes]);
                out_index[at] = i as i64;
            }
        }
        let d = f.device();
        let out_boxes = Array::from_f32(out_boxes, &[batch, most, 4], boxes.dtype(), d)?;
        let out_scores = Array::from_f32(out_scores, &[batch, most, classes], scores.dtype(), d)?;
        let out_index = Value::Array(Array::from_i64(out_index, &[batch, most], DataType::I32, d)?);
        if boxes_last {
            return Ok(vec![Value::Array(swap_last(&out_boxes)?), Value::Array(swap_last(&out_scores)?), out_index]);
        }
        let numbers = Value::Array(Array::from_i64(numbers, &[batch], DataType::I32, d)?);
        Ok(vec![Value::Array(out_boxes), Value::Array(out_scores), out_index, numbers])
    })
}
