//! Shape transformations: reshape, slice, permute.
//!
//! Semantics follow the reference documentation of coremltools' `tensor_transformation` chapter.

use candle_core::{DType, Tensor};
use coreml_kernels::gather::{AxisIndices, FILL};

use super::slice::{SliceParams, runs, scatter_positions, take};
use crate::array::Array;
use crate::batch;
use crate::budget::{self, Counted};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::rearrange::{join, pick, pick_dim};
use crate::shape::{check_size, resolve_axes, resolve_axis};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("batch_to_space", IOS15, batch_to_space),
    OpSpec::new("depth_to_space", IOS15, |b| depth(b, "block_size", depth_to_space)),
    OpSpec::new("expand_dims", IOS15_17, expand_dims).batch(batch::expand_dims),
    OpSpec::new("pixel_shuffle", IOS15, |b| depth(b, "upscale_factor", pixel_shuffle)),
    OpSpec::new("pixel_unshuffle", IOS16, |b| depth(b, "downscale_factor", pixel_unshuffle)),
    OpSpec::new("reshape", IOS15_17, reshape).batch(batch::reshape),
    OpSpec::new("reshape_like", IOS16_17, reshape_like),
    OpSpec::new("reverse", IOS15_17, reverse).kernel("gather"),
    OpSpec::new("reverse_sequence", IOS15_17, reverse_sequence).kernel("gather"),
    OpSpec::new("slice_by_index", IOS15_17, slice_by_index).batch(batch::slice).kernel("gather"),
    OpSpec::new("slice_by_size", IOS15_17, slice_by_size),
    OpSpec::new("slice_update", IOS18, slice_update),
    OpSpec::new("sliding_windows", IOS15_17, sliding_windows).kernel("gather"),
    OpSpec::new("space_to_batch", IOS15, space_to_batch).kernel("gather"),
    OpSpec::new("space_to_depth", IOS15, |b| depth(b, "block_size", space_to_depth)),
    OpSpec::new("squeeze", IOS15_17, squeeze).batch(batch::squeeze),
    OpSpec::new("transpose", IOS15_17, transpose).batch(batch::transpose),
];

/// `expand_dims(x, axes)`: axes refer to the result.
fn expand_dims(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axes = b.param::<Vec<i64>>("axes")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axes = axes.get(f)?;
        let rank = x.rank() + axes.len();
        let mut axes = resolve_axes(&axes, rank)?;
        axes.sort_unstable();
        let mut t = x.tensor().clone();
        for axis in axes {
            t = t.unsqueeze(axis)?;
        }
        one(x.with(t))
    })
}

/// `squeeze(x, axes?)`: removes extents of one; all of them if `axes` is omitted.
fn squeeze(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axes = b.param_opt::<Vec<i64>>("axes")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let mut axes = match &axes {
            Some(axes) => resolve_axes(&axes.get(f)?, x.rank())?,
            None => (0..x.rank()).filter(|&d| x.shape()[d] == 1).collect(),
        };
        axes.sort_unstable();
        axes.dedup();
        let mut t = x.tensor().clone();
        for axis in axes.into_iter().rev() {
            if t.dims()[axis] != 1 {
                return Err(OpError::shape(format!("squeeze of an extent of {}", t.dims()[axis])));
            }
            t = t.squeeze(axis)?;
        }
        one(x.with(t))
    })
}

/// `transpose(x, perm)`.
fn transpose(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let perm = b.param::<Vec<i64>>("perm")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let perm = resolve_axes(&perm.get(f)?, x.rank())?;
        if perm.len() != x.rank() || !(0..x.rank()).all(|d| perm.contains(&d)) {
            return Err(OpError::shape(format!("{perm:?} is no permutation of {} dimensions", x.rank())));
        }
        one(x.with(x.tensor().permute(perm)?))
    })
}

/// Extents of a `shape` argument: 0 copies the extent of x, −1 is inferred.
fn target_shape(x: &[usize], shape: &[i64], zero_copies: bool) -> Result<Vec<usize>, OpError> {
    let total: usize = x.iter().product();
    let bad = || OpError::shape(format!("{x:?} does not reshape to {shape:?}"));
    let mut out = Vec::with_capacity(shape.len());
    let mut open = None;
    for (d, &n) in shape.iter().enumerate() {
        out.push(match n {
            -1 if open.is_none() => {
                open = Some(d);
                1
            }
            // With another rank (iOS17), extents align from the right; missing ones are one.
            0 if zero_copies && total != 0 && x.len() != shape.len() => {
                (d + x.len()).checked_sub(shape.len()).map_or(Some(1), |i| x.get(i).copied()).ok_or_else(bad)?
            }
            0 if zero_copies && total != 0 => *x.get(d).ok_or_else(bad)?,
            n => usize::try_from(n).map_err(|_| bad())?,
        });
    }
    let known = check_size(&out)?;
    if let Some(d) = open {
        if known == 0 || !total.is_multiple_of(known) {
            return Err(bad());
        }
        out[d] = total / known;
    }
    if out.iter().product::<usize>() == total { Ok(out) } else { Err(bad()) }
}

/// `reshape(x, shape)`.
fn reshape(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let shape = b.param::<Vec<i64>>("shape")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let shape = target_shape(x.shape(), &shape.get(f)?, true)?;
        one(x.with(layout::reshape(x.tensor(), &shape)?))
    })
}

/// Constants of a variadic parameter or of one vector.
fn tuple(b: &OpBuilder<'_>, name: &str) -> Result<Vec<i64>, OpError> {
    let mut all = Vec::new();
    for slot in b.slots(name)? {
        let value = b.constant(slot).ok_or_else(|| OpError::data(format!("`{name}` must be constant")))?;
        all.extend(value.array(name, b.device())?.to_i64s()?);
    }
    Ok(all)
}

/// `reshape_like(x, ref_tensors, begins, ends, end_masks)`: concatenates the extents `begin..end` of each reference.
fn reshape_like(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let refs = b.slots("ref_tensors")?;
    let (begins, ends) = (tuple(b, "begins")?, tuple(b, "ends")?);
    let masks: Vec<bool> = tuple(b, "end_masks")?.into_iter().map(|v| v != 0).collect();
    b.run(move |f| {
        let x = f.array(x)?;
        let mut shape = Vec::new();
        for (i, slot) in refs.iter().enumerate() {
            let dims = f.array(*slot)?.shape().to_vec();
            let (Some(&begin), Some(&end), Some(&mask)) = (begins.get(i), ends.get(i), masks.get(i)) else {
                return Err(OpError::shape("`begins`, `ends` and `end_masks` need one entry for each reference"));
            };
            let at = |v: i64| (if v < 0 { v + dims.len() as i64 } else { v }).clamp(0, dims.len() as i64) as usize;
            let end = if mask { dims.len() } else { at(end) };
            shape.extend(dims.get(at(begin)..end).unwrap_or_default());
        }
        let shape: Vec<i64> = shape.into_iter().map(|n: usize| n as i64).collect();
        let shape = target_shape(x.shape(), &shape, false)?;
        one(x.with(x.tensor().counted_reshape(shape)?))
    })
}

/// `reverse(x, axes?)`.
fn reverse(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axes = b.attr_opt::<Vec<i64>>("axes")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axes = match &axes {
            Some(a) => resolve_axes(a, x.rank())?,
            None => (0..x.rank()).collect(),
        };
        // An axis named twice is reversed twice.
        let place = |(d, &n): (usize, &usize)| match axes.iter().filter(|&&axis| axis == d).count() % 2 {
            0 => Ok(AxisIndices::Run(0..n)),
            _ => Ok(AxisIndices::At(budget::collect((0..n).rev())?)),
        };
        let places = x.shape().iter().enumerate().map(place).collect::<Result<Vec<_>, OpError>>()?;
        one(x.with(pick(x.tensor(), &places, None)?))
    })
}

/// `reverse_sequence(x, lengths, seq_axis = 0, batch_axis = 0)`.
fn reverse_sequence(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let lengths = b.param::<Vec<i64>>("lengths")?;
    let (seq, batch) = (b.attr_or("seq_axis", 0i64)?, b.attr_or("batch_axis", 0i64)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let (seq, batch) = (resolve_axis(seq, x.rank())?, resolve_axis(batch, x.rank())?);
        let lengths = lengths.get(f)?;
        if lengths.len() != x.shape()[batch] || seq == batch {
            return Err(OpError::shape(format!("{} lengths for {:?}", lengths.len(), x.shape())));
        }
        let n = x.shape()[seq];
        let mut parts = Vec::with_capacity(lengths.len());
        for (i, &length) in lengths.iter().enumerate() {
            let fits = usize::try_from(length).ok().filter(|&length| length <= n);
            let length = fits.ok_or_else(|| OpError::shape(format!("a length of {length} of an extent of {n}")))?;
            let _positions = budget::lent(n.saturating_mul(size_of::<usize>()))?;
            let places = AxisIndices::At((0..length).rev().chain(length..n).collect());
            parts.push(pick_dim(&x.tensor().narrow(batch, i, 1)?, seq, places)?);
        }
        if parts.is_empty() {
            return one(x);
        }
        one(x.with(join(&parts, batch)?))
    })
}

/// `slice_by_index(x, begin, end, stride?, begin_mask?, end_mask?, squeeze_mask?)`.
fn slice_by_index(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let params = SliceParams::new(b)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let (positions, squeeze) = params.resolve(f, x.shape())?;
        one(x.with(take(x.tensor(), &positions, &squeeze)?))
    })
}

/// `slice_by_size(x, begin, size)`: a size of −1 takes the rest.
fn slice_by_size(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (begin, size) = (b.param::<Vec<i64>>("begin")?, b.param::<Vec<i64>>("size")?);
    b.run(move |f| {
        let x = f.array(x)?;
        let (begin, size) = (begin.get(f)?, size.get(f)?);
        if begin.len() != x.rank() || size.len() != x.rank() {
            return Err(OpError::shape(format!("slice at {begin:?} of size {size:?} of shape {:?}", x.shape())));
        }
        let mut t = x.tensor().clone();
        for d in 0..x.rank() {
            let n = x.shape()[d] as i64;
            let start = if begin[d] < 0 { begin[d] + n } else { begin[d] };
            let len = if size[d] == -1 { n - start } else { size[d] };
            let fits = start >= 0 && len >= 0 && start.checked_add(len).is_some_and(|e| e <= n);
            if !fits {
                return Err(OpError::shape(format!("{len} elements from {start} of an extent of {n}")));
            }
            t = t.narrow(d, start as usize, len as usize)?;
        }
        one(x.with(t))
    })
}

/// `slice_update(x, update, begin, end, …)`: x with the slice replaced.
fn slice_update(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, update) = (b.slot("x")?, b.slot("update")?);
    let params = SliceParams::new(b)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let (positions, _) = params.resolve(f, x.shape())?;
        let update = f.array(update)?;
        let shape: Vec<usize> = positions.iter().map(AxisIndices::len).collect();
        let count = check_size(&shape)?;
        let update = update.tensor().counted_to_dtype(x.tensor().dtype())?;
        let update = if update.elem_count() == count {
            update.counted_reshape(shape.as_slice())?
        } else {
            update.broadcast_as(shape.as_slice())?
        };
        if count == 0 {
            return one(x);
        }
        if let Some(ranges) = runs(&positions) {
            // Candle pads the update and its mask to the whole tensor, dimension by dimension.
            let _parts = budget::lent(x.bytes().saturating_mul(8))?;
            let (whole, part) = (x.tensor().counted_contiguous()?, update.counted_contiguous()?);
            budget::claim(x.bytes())?;
            return one(x.with(whole.slice_assign(&ranges, &part)?));
        }
        if x.tensor().dtype() == DType::F32 {
            let data = scatter_positions(x.to_f32s()?, x.shape(), &positions, update.counted_elements()?);
            return one(Array::from_f32(data, x.shape(), x.dtype(), f.device())?);
        }
        let values = update.counted_to_dtype(DType::I64)?.counted_elements()?;
        let data = scatter_positions(x.to_i64s()?, x.shape(), &positions, values);
        let tensor = Tensor::from_vec(data, x.shape(), f.device())?;
        one(Array::new(tensor, x.dtype())?)
    })
}

/// `sliding_windows(x, axis, size, stride = 1)`: windows along a new dimension before `axis`.
fn sliding_windows(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (axis, size, stride) = (b.attr::<i64>("axis")?, b.attr::<i64>("size")?, b.attr_or("stride", 1i64)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(axis, x.rank())?;
        let n = x.shape()[axis] as i64;
        if size < 1 || stride < 1 || size > n {
            return Err(OpError::shape(format!("windows of {size} with stride {stride} over {n}")));
        }
        let count = (n - size) / stride + 1;
        let mut shape = x.shape().to_vec();
        shape[axis] = size as usize;
        shape.insert(axis, count as usize);
        check_size(&shape)?;
        let positions = (0..count).flat_map(|w| (0..size).map(move |i| (w * stride + i) as usize));
        let places = budget::collect_most((count * size) as usize, positions)?;
        one(x.with(layout::reshape(&pick_dim(x.tensor(), axis, AxisIndices::At(places))?, &shape)?))
    })
}

type Rearrange = fn(&Tensor, usize) -> Result<Tensor, OpError>;

fn depth(b: &OpBuilder<'_>, parameter: &str, apply: Rearrange) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let block = usize::try_from(b.attr::<i64>(parameter)?).unwrap_or(0);
    b.run(move |f| {
        let x = f.array(x)?;
        if x.rank() != 4 || block == 0 {
            return Err(OpError::shape(format!("blocks of {block} in shape {:?}; expected [N, C, H, W]", x.shape())));
        }
        one(x.with(apply(x.tensor(), block)?))
    })
}

fn divide(n: usize, by: usize) -> Result<usize, OpError> {
    if n.is_multiple_of(by) { Ok(n / by) } else { Err(OpError::shape(format!("{n} is not divisible by {by}"))) }
}

/// Splits dimensions, permutes and merges them.
fn rearranged(x: &Tensor, split: &[usize], order: [usize; 6], shape: &[usize]) -> Result<Tensor, OpError> {
    layout::reshape(&layout::reshape(x, split)?.permute(order.as_slice())?, shape)
}

/// [N, b·b·C, H, W] → [N, C, bH, bW], the block index outermost in the channels.
fn depth_to_space(x: &Tensor, s: usize) -> Result<Tensor, OpError> {
    let (n, c, h, w) = x.dims4()?;
    let c = divide(c, s * s)?;
    rearranged(x, &[n, s, s, c, h, w], [0, 3, 4, 1, 5, 2], &[n, c, h * s, w * s])
}

fn space_to_depth(x: &Tensor, s: usize) -> Result<Tensor, OpError> {
    let (n, c, h, w) = x.dims4()?;
    let (h, w) = (divide(h, s)?, divide(w, s)?);
    rearranged(x, &[n, c, h, s, w, s], [0, 3, 5, 1, 2, 4], &[n, c * s * s, h, w])
}

/// [N, C·b·b, H, W] → [N, C, bH, bW], the block index innermost in the channels.
fn pixel_shuffle(x: &Tensor, s: usize) -> Result<Tensor, OpError> {
    let (n, c, h, w) = x.dims4()?;
    let c = divide(c, s * s)?;
    rearranged(x, &[n, c, s, s, h, w], [0, 1, 4, 2, 5, 3], &[n, c, h * s, w * s])
}

fn pixel_unshuffle(x: &Tensor, s: usize) -> Result<Tensor, OpError> {
    let (n, c, h, w) = x.dims4()?;
    let (h, w) = (divide(h, s)?, divide(w, s)?);
    rearranged(x, &[n, c, h, s, w, s], [0, 1, 3, 5, 2, 4], &[n, c * s * s, h, w])
}

fn blocks_of(b: &OpBuilder<'_>, second: &str) -> Result<(Vec<usize>, Vec<usize>), OpError> {
    let read = |name: &str| {
        let values: Vec<i64> = b.attr(name)?;
        values
            .into_iter()
            .map(|v| usize::try_from(v).map_err(|_| OpError::shape(format!("`{name}` holds {v}"))))
            .collect::<Result<Vec<_>, _>>()
    };
    let (shape, edges) = (read("block_shape")?, read(second)?);
    if shape.contains(&0) || edges.len() != 2 * shape.len() {
        return Err(OpError::shape(format!("`block_shape` {shape:?} with `{second}` {edges:?}")));
    }
    Ok((shape, edges))
}

/// `space_to_batch(x, block_shape, paddings)`: x is [N, C, spatial…].
fn space_to_batch(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (block, pads) = blocks_of(b, "paddings")?;
    b.run(move |f| {
        let x = f.array(x)?;
        if x.rank() != block.len() + 2 {
            return Err(OpError::shape(format!("block {block:?} for shape {:?}", x.shape())));
        }
        let mut padded = x.shape().to_vec();
        for d in 0..block.len() {
            padded[d + 2] = padded[d + 2].saturating_add(pads[2 * d]).saturating_add(pads[2 * d + 1]);
        }
        check_size(&padded)?;
        let places = (0..x.rank())
            .map(|d| match d.checked_sub(2) {
                None => Ok(AxisIndices::Run(0..x.shape()[d])),
                Some(d) => {
                    let edge = |n: usize| std::iter::repeat_n(FILL, n);
                    let positions = edge(pads[2 * d]).chain(0..x.shape()[d + 2]).chain(edge(pads[2 * d + 1]));
                    Ok(AxisIndices::At(budget::collect_most(padded[d + 2], positions)?))
                }
            })
            .collect::<Result<Vec<_>, OpError>>()?;
        let t = pick(x.tensor(), &places, None)?;
        let (n, c) = (t.dims()[0], t.dims()[1]);
        let mut split = vec![n, c];
        for (d, &k) in block.iter().enumerate() {
            split.extend([divide(t.dims()[d + 2], k)?, k]);
        }
        let mut order: Vec<usize> = (0..block.len()).map(|d| 2 * d + 3).collect();
        order.extend([0, 1]);
        order.extend((0..block.len()).map(|d| 2 * d + 2));
        let mut shape = vec![n * block.iter().product::<usize>(), c];
        shape.extend((0..block.len()).map(|d| split[2 * d + 2]));
        one(x.with(layout::reshape(&layout::reshape(&t, &split)?.permute(order)?, &shape)?))
    })
}

/// `batch_to_space(x, block_shape, crops)`: the inverse of [`space_to_batch`].
fn batch_to_space(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (block, crops) = blocks_of(b, "crops")?;
    b.run(move |f| {
        let x = f.array(x)?;
        if x.rank() != block.len() + 2 {
            return Err(OpError::shape(format!("block {block:?} for shape {:?}", x.shape())));
        }
        let n = divide(x.shape()[0], block.iter().product())?;
        let k = block.len();
        let mut split = block.clone();
        split.extend([n]);
        split.extend(&x.shape()[1..]);
        let mut order = vec![k, k + 1];
        for d in 0..k {
            order.extend([k + 2 + d, d]);
        }
        let mut shape = vec![n, x.shape()[1]];
        shape.extend((0..k).map(|d| x.shape()[d + 2] * block[d]));
        let mut t = layout::reshape(&layout::reshape(x.tensor(), &split)?.permute(order)?, &shape)?;
        for d in 0..k {
            let length = t.dims()[d + 2].checked_sub(crops[2 * d] + crops[2 * d + 1]);
            let length = length.ok_or_else(|| OpError::shape("`crops` are larger than the result"))?;
            t = t.narrow(d + 2, crops[2 * d], length)?;
        }
        one(x.with(t))
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused, run};

    #[test]
    fn reshape_infers_one_extent_and_refuses_what_does_not_fit() {
        let body =
            |shape: &str| format!("tensor<fp32, [?, ?]> y = reshape(x = x, shape = tensor<int32, [2]>([{shape}]));");
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(run(&body("-1, 2"), &[("x", &[2, 3], &x)]).map(|(shape, _)| shape), Ok(vec![3, 2]));
        refused(&body("4, 2"), &[2, 3], &x, "reshape");
        refused(&body("-1, -1"), &[2, 3], &x, "reshape");
    }

    #[test]
    fn depth_to_space_undoes_space_to_depth() {
        let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let there = "tensor<fp32, [1, 4, 2, 2]> z = space_to_depth(x = x, block_size = int32(2));";
        near(&of(&there.replace(" z ", " y "), &[1, 1, 4, 4], &x)[..4], &[0.0, 2.0, 8.0, 10.0]);
        let back = format!("{there} tensor<fp32, [1, 1, 4, 4]> y = depth_to_space(x = z, block_size = int32(2));");
        near(&of(&back, &[1, 1, 4, 4], &x), &x);
    }
}
