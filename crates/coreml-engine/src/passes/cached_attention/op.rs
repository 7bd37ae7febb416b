//! `engine.cached_attention`: grouped-query attention over two slices of a state, read in place. It validates its
//! operands at run time, since declared types of a file may be wrong.

use candle_core::{CpuStorage, D, Storage, Tensor};
use coreml_format::program::Operation;
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::cached_attention::{Cache, Shape, cached_attention as kernel};
use coreml_kernels::gather::AxisIndices;
use coreml_kernels::parallel;

use crate::batch::{BatchDim, Followed};
use crate::budget::{Counted, claim_of, lent, products};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::op::{OpSpec, since::*};
use crate::ops::activation::softmax_last;
use crate::ops::slice::SliceParams;
use crate::passes::state_access::op::part;
use crate::planned::Run;
use crate::state::StateBuffer;

pub(super) const CACHED_ATTENTION: OpSpec =
    OpSpec::impure("engine.cached_attention", IOS18, cached_attention).batch(batch);

/// The index into the first dimension of a state that a slice selects, if it covers all other dimensions.
fn entry(positions: &[AxisIndices], shape: &[usize]) -> Option<usize> {
    let whole = positions[1..].iter().zip(&shape[1..]).all(|(p, &n)| *p == AxisIndices::Run(0..n));
    match &positions[0] {
        AxisIndices::Run(row) if whole && shape.len() == 4 && row.len() == 1 => Some(row.start),
        _ => None,
    }
}

/// Attention over fp16 keys and values of a CPU state, in place.
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

/// `engine.cached_attention(query [1, heads, n, dim], mask [1, 1, n, length], scale, input, key_…, value_…)`:
/// grouped-query attention over two slices of a state. The result may be declared without the leading one.
fn cached_attention(b: &OpBuilder<'_>) -> Result<Run, OpError> {
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
            // Scores per thread, and rows of keys and values in f32.
            let row = shape.len.saturating_mul(queries.min(64)).saturating_add(dim * 64);
            let _scores = lent(row.saturating_mul(4 * size_of::<f32>() * parallel::threads()))?;
            let (qt, mt) = (layout::contiguous(q.tensor())?, layout::contiguous(mask.tensor())?);
            if let Some(out) = in_place(buffer, entries, shape, &qt, &mt, scale) {
                return one(q.with(Tensor::from_vec(out, shape_out, device)?));
            }
        }
        // Generic implementation for any device.
        let read = |at: &[AxisIndices], squeeze: &[bool]| -> Result<Tensor, OpError> {
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
        // The product, then scaled, masked, shifted and divided.
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

/// The batch dimension is that of queries and mask rows; keys and values are in the state.
fn batch(dim: &BatchDim<'_>, op: &Operation) -> Result<Followed, String> {
    dim.only(op, &["query", "mask"])?;
    let (query, mask) = (dim.source(op, "query")?, dim.source(op, "mask")?);
    let rank = op.outputs.first().and_then(|o| o.ty.tensor()).map_or(0, |t| t.shape.len());
    if (query.axis, query.shape.len(), mask.axis, mask.shape.len()) != (2, 4, 2, 4) || rank < 3 {
        return Err("its queries are not the rows".to_owned());
    }
    Ok((Some(rank - 2), Vec::new()))
}
