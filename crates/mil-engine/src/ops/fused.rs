//! Internal operations that rewrites make out of idioms; no file contains them.
//!
//! They check what they are given at run time: declared types of a file may lie.

use candle_core::{CpuStorage, D, Storage, Tensor};
use mil_kernels::attention::{Cache, Shape, attention as kernel};
use mil_kernels::fresh::zeros;
use mil_kernels::parallel;
use mil_kernels::pick::Places;

use super::activation::softmax_last;
use super::elementwise_unary::float;
use super::finish::hard_swish;
use super::slice::{SliceParams, runs, take};
use crate::array::Array;
use crate::budget::{Counted, claim_of, lent, products};
use crate::build::{Build, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::state::StateBuffer;

mod elementwise;
mod products;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::effect("engine.attention", IOS18, attention),
    OpSpec::new("engine.attend", IOS15, super::attend::build),
    OpSpec::new("engine.conv", IOS15, super::conv::conv),
    // `engine.hard_swish(x, slope, offset, threshold?)`: `w · min(max(slope · w + offset, 0), 1)`, where `w` is `x`, and 0
    // below the threshold.
    OpSpec::new("engine.hard_swish", IOS15, |b| float(b, hard_swish(b)?)),
    OpSpec::new("engine.linear", IOS15, super::linear::linear),
    OpSpec::new("engine.products", IOS15, products::products),
    OpSpec::new("engine.rms_norm", IOS15, rms_norm),
    OpSpec::new("engine.rotary", IOS15, elementwise::rotary),
    OpSpec::new("engine.silu_mul", IOS15, elementwise::silu_mul),
    OpSpec::effect("engine.state_slice", IOS18, state_slice),
    OpSpec::effect("engine.state_update", IOS18, state_update),
];

/// `engine.rms_norm(x, epsilon = 1e-5, gain?)`: x / √(mean(x²) + ε) · gain along the last dimension; the gain is a
/// constant of its extent.
fn rms_norm(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let epsilon = b.attr_or("epsilon", 1e-5f32)?;
    let gain = match b.slot_opt("gain")?.map(|slot| b.constant(slot)) {
        None => None,
        Some(Some(value)) => Some(value.array("gain", b.device())?.to_f32s()?),
        Some(None) => return Err(OpError::data("a gain that is not constant")),
    };
    b.run(move |f| {
        let x = f.array(x)?;
        let size = x.shape().last().copied().unwrap_or(1);
        if gain.as_ref().is_some_and(|g| g.len() != size) {
            return Err(OpError::shape(format!("a norm of {:?} with another gain", x.shape())));
        }
        if x.floats()?.elem_count() == 0 {
            return one(x);
        }
        let norm = |data: &[f32]| {
            claim_of::<f32>(data.len())?;
            let mut out = zeros(data.len());
            mil_kernels::norm::rms_norm(data, size, epsilon, gain.as_deref(), &mut out);
            Ok::<_, OpError>(out)
        };
        let data = x.with_rows(norm)??;
        one(x.with(Tensor::from_vec(data, x.shape(), f.device())?))
    })
}

/// `engine.state_slice(input, begin, end, …)`: `slice_by_index` of a state.
fn state_slice(b: &Build<'_>) -> Result<Run, OpError> {
    let state = b.slot("input")?;
    let params = SliceParams::new(b)?;
    b.run(move |f| {
        let shape = f.state(state)?.spec().shape.clone();
        let (positions, squeeze) = params.resolve(f, &shape)?;
        one(part(f.state(state)?, &positions, &squeeze)?)
    })
}

/// A part of a state: a copy, since the buffer changes in place later.
fn part(buffer: &StateBuffer, positions: &[Places], squeeze: &[bool]) -> Result<Array, OpError> {
    let dtype = buffer.spec().dtype;
    // Single positions are picked in the representation of values.
    let part = match runs(positions) {
        Some(_) => take(buffer.tensor(), positions, squeeze)?,
        None => take(Array::new(buffer.tensor().clone(), dtype)?.tensor(), positions, squeeze)?,
    };
    Array::new(part.counted_copy()?, dtype)
}

/// `engine.state_update(input, update, begin, end, …, rows?)`: `slice_update` of a state, in place; no result. Along the
/// dimension `rows` of the state, as many positions are written as the update has.
fn state_update(b: &Build<'_>) -> Result<Run, OpError> {
    let (state, update) = (b.slot("input")?, b.slot("update")?);
    let params = SliceParams::new(b)?;
    let rows = b.attr_opt::<i64>("rows")?.and_then(|d| usize::try_from(d).ok());
    b.run(move |f| {
        let shape = f.state(state)?.spec().shape.clone();
        let update = f.array(update)?;
        // Dimensions are counted from the last one.
        let count = |d: usize| Some((d, *update.shape().get((d + update.rank()).checked_sub(shape.len())?)?));
        let (positions, _) = params.resolve_rows(f, &shape, rows.and_then(count))?;
        let extents: Vec<usize> = positions.iter().map(Places::len).collect();
        let update = if update.tensor().elem_count() == extents.iter().product::<usize>() {
            update.tensor().counted_reshape(extents)?
        } else {
            update.tensor().broadcast_as(extents)?
        };
        if update.elem_count() == 0 {
            return Ok(Vec::new());
        }
        let Some(ranges) = runs(&positions) else {
            return Err(OpError::Unsupported(
                "updating a state at positions that do not follow one another".to_owned(),
            ));
        };
        let begin: Vec<usize> = ranges.iter().map(|r| r.start).collect();
        f.state(state)?.write_slice(&update, &begin)?;
        Ok(Vec::new())
    })
}

/// Rows of a state that a slice takes: which entry of the first dimension; all others must be whole.
fn entry(positions: &[Places], shape: &[usize]) -> Option<usize> {
    let whole = positions[1..].iter().zip(&shape[1..]).all(|(p, &n)| *p == Places::Run(0..n));
    match &positions[0] {
        Places::Run(row) if whole && shape.len() == 4 && row.len() == 1 => Some(row.start),
        _ => None,
    }
}

/// Keys and values of a CPU state in fp16, in place.
fn in_place(
    buffer: &StateBuffer,
    entries: (usize, usize),
    shape: Shape,
    q: &Tensor,
    mask: &Tensor,
    scale: f32,
) -> Option<Vec<f32>> {
    let (storage, layout) = buffer.tensor().storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    let Storage::Cpu(CpuStorage::F16(data)) = &*storage else { return None };
    let data = data.get(start..end)?;
    let size = shape.kv_heads * shape.len * shape.dim;
    let part = |entry: usize| -> Option<Cache<'_>> {
        let data = data.get(entry * size..(entry + 1) * size)?;
        Some(Cache { data, head_stride: shape.len * shape.dim, row_stride: shape.dim })
    };
    let (k, v) = (part(entries.0)?, part(entries.1)?);
    let mut out = zeros(shape.heads * shape.queries * shape.dim);
    with_f32s(q, |q| with_f32s(mask, |mask| kernel(shape, q, k, v, Some(mask), scale, &mut out)))??;
    Some(out)
}

/// `engine.attention(query [1, heads, n, dim], mask [1, 1, n, length], scale, input, key_…, value_…)`:
/// grouped-query attention over two slices of a state. The result may be declared without the leading one.
fn attention(b: &Build<'_>) -> Result<Run, OpError> {
    let (query, mask, state) = (b.slot("query")?, b.slot("mask")?, b.slot("input")?);
    let scale = b.attr::<f32>("scale")?;
    let rank = b.output_type(0).and_then(|t| t.tensor()).map_or(4, |t| t.shape.len());
    let (keys, values) = (SliceParams::with_prefix(b, "key_")?, SliceParams::with_prefix(b, "value_")?);
    b.run(move |f| {
        let (q, mask) = (f.array(query)?, f.array(mask)?);
        let kept = f.state(state)?.spec().shape.clone();
        let (key_at, key_squeeze) = keys.resolve(f, &kept)?;
        let (value_at, value_squeeze) = values.resolve(f, &kept)?;
        let &[1, heads, queries, dim] = q.shape() else {
            return Err(OpError::shape(format!("attention of a query {:?}", q.shape())));
        };
        let sizes = match (entry(&key_at, &kept), entry(&value_at, &kept), kept.as_slice()) {
            (Some(k), Some(v), &[_, kv_heads, len, width])
                if width == dim && kv_heads > 0 && heads % kv_heads == 0 && mask.shape() == [1, 1, queries, len] =>
            {
                Some(((k, v), Shape { heads, kv_heads, queries, len, dim }))
            }
            _ => None,
        };
        let device = f.device();
        let shape_out = if rank == 3 { vec![heads, queries, dim] } else { vec![1, heads, queries, dim] };
        let buffer = f.state(state)?;
        if let Some((entries, shape)) = sizes {
            products(&[heads, queries, shape.len, 2 * dim])?;
            claim_of::<f32>(heads.saturating_mul(queries).saturating_mul(dim))?;
            // Scores of each thread, and rows of keys and values in f32.
            let row = shape.len.saturating_mul(queries.min(64)).saturating_add(dim * 64);
            let _scores = lent(row.saturating_mul(4 * size_of::<f32>() * parallel::threads()))?;
            let (qt, mt) = (layout::contiguous(q.tensor())?, layout::contiguous(mask.tensor())?);
            if let Some(out) = in_place(buffer, entries, shape, &qt, &mt, scale) {
                return one(q.with(Tensor::from_vec(out, shape_out, device)?));
            }
        }
        // The definition, on any device.
        let read = |at: &[Places], squeeze: &[bool]| -> Result<Tensor, OpError> {
            let t = part(buffer, at, squeeze)?.floats()?.clone();
            let (kv, len, width) = match t.dims() {
                &[1, kv, len, width] | &[kv, len, width] => (kv, len, width),
                other => return Err(OpError::shape(format!("attention over a cache {other:?}"))),
            };
            if kv == 0 || heads % kv != 0 {
                return Err(OpError::shape(format!("{heads} query heads share {kv} cached heads")));
            }
            let wide = t.reshape((kv, 1, len, width))?.broadcast_as((kv, heads / kv, len, width))?;
            wide.counted_reshape((1, heads, len, width))
        };
        let (k, v) = (read(&key_at, &key_squeeze)?, read(&value_at, &value_squeeze)?);
        products(&[heads, queries, mask.shape().last().copied().unwrap_or(0), 2 * dim])?;
        // The product, and scaled, masked, shifted and divided.
        let all = heads.saturating_mul(queries).saturating_mul(k.dims()[2]);
        claim_of::<f32>(
            all.saturating_mul(6).saturating_add(k.elem_count()).saturating_add(2 * q.tensor().elem_count()),
        )?;
        let scores =
            (q.tensor().contiguous()?.matmul(&k.transpose(D::Minus2, D::Minus1)?.contiguous()?)? * f64::from(scale))?;
        let weights = softmax_last(&scores.broadcast_add(mask.tensor())?)?;
        one(q.with(weights.matmul(&v)?.reshape(shape_out)?))
    })
}
