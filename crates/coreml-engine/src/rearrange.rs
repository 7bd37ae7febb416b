//! Gather and concatenation for all element types, in the memory order of the tensor.

use candle_core::{DType, Device, Tensor, WithDType};
use coreml_kernels::buffer_pool::Element;
use coreml_kernels::gather::{self as kernels, Axis, AxisIndices, Indices};
use coreml_kernels::strided::Strided;

use crate::budget::{Counted, bytes_of, claim, lent};
use crate::error::OpError;
use crate::memory_order::{elements, from_memory, memory_order, with_elements};
use crate::shape::check_size;

/// Calls a function generic over the element type for the type of a tensor.
macro_rules! by_type {
    ($t:expr, $f:ident($($arg:expr),*)) => {
        match $t.dtype() {
            DType::F32 => $f::<f32>($($arg),*),
            DType::I64 => $f::<i64>($($arg),*),
            DType::U8 => $f::<u8>($($arg),*),
            other => Err(OpError::data(format!("elements are F32, I64 or U8 between operations, not {other:?}"))),
        }
    };
}

/// Minimum number of result elements for which index tables are charged to the budget.
const TABLES: usize = 1 << 14;

/// The error for elements that are not in the CPU's memory.
pub(crate) fn elsewhere() -> OpError {
    OpError::data("a tensor outside the CPU's memory")
}

/// Gathers the elements at `places` along each dimension; fill positions get the scalar `fill`, zero by default.
///
/// # Errors
/// If a position is out of range or the result is too large.
pub(crate) fn pick(t: &Tensor, places: &[AxisIndices], fill: Option<&Tensor>) -> Result<Tensor, OpError> {
    let shape: Vec<usize> = places.iter().map(AxisIndices::len).collect();
    if shape.len() != t.rank() {
        return Err(OpError::shape(format!("positions along {} dimensions of {:?}", shape.len(), t.dims())));
    }
    let count = check_size(&shape)?;
    if count == 0 {
        return Ok(Tensor::zeros(shape, t.dtype(), t.device())?);
    }
    for (d, (p, &n)) in places.iter().zip(t.dims()).enumerate() {
        if let Some(last) = p.last().filter(|&last| last >= n) {
            return Err(OpError::shape(format!("position {last} along dimension {d} of {:?}", t.dims())));
        }
    }
    fn run<T: WithDType + Element>(
        t: &Tensor,
        places: &[AxisIndices],
        fill: Option<&Tensor>,
    ) -> Result<Tensor, OpError> {
        let order = memory_order(t);
        let along: Vec<Axis<'_>> = order.iter().map(|&d| Axis { stride: t.stride()[d], places: &places[d] }).collect();
        let fill = fill.map_or(Ok(T::zero()), |f| f.reshape(())?.to_scalar::<T>())?;
        let data = with_elements::<T, _>(t, |x| kernels::index_select(x, &along, fill)).ok_or_else(elsewhere)?;
        let shape: Vec<usize> = places.iter().map(AxisIndices::len).collect();
        from_memory(data, &shape, &order, t)
    }
    claim(count.saturating_mul(t.dtype().size_in_bytes()))?;
    let extents = || memory_order(t).into_iter().map(|d| shape[d]);
    let _table = if count > TABLES { Some(lent(kernels::table_bytes(extents()))?) } else { None };
    let cpu = t.to_device(&Device::Cpu)?;
    Ok(by_type!(cpu, run(&cpu, places, fill))?.to_device(t.device())?)
}

/// [`pick`] along one dimension.
pub(crate) fn pick_dim(t: &Tensor, dim: usize, places: AxisIndices) -> Result<Tensor, OpError> {
    let mut all: Vec<AxisIndices> = t.dims().iter().map(|&n| AxisIndices::Run(0..n)).collect();
    all[dim] = places;
    pick(t, &all, None)
}

/// Gathers elements along one dimension by indices in the row-major order of the result, whose extent in that dimension is
/// `m`.
///
/// # Errors
/// If the number of indices differs from that of the result's elements, or one is out of range.
pub(crate) fn pick_along(t: &Tensor, dim: usize, indices: Indices<'_>, m: usize) -> Result<Tensor, OpError> {
    let mut shape = t.dims().to_vec();
    shape[dim] = m;
    if indices.at.len() != check_size(&shape)? || indices.n != t.dims()[dim] {
        return Err(OpError::shape(format!("indices for {shape:?} along dimension {dim} of {:?}", t.dims())));
    }
    if indices.at.is_empty() {
        return Ok(Tensor::zeros(shape, t.dtype(), t.device())?);
    }
    fn run<T: WithDType + Element>(
        t: &Tensor,
        dim: usize,
        indices: Indices<'_>,
        shape: &[usize],
    ) -> Result<Tensor, OpError> {
        let (inner, count) = (shape[dim + 1..].iter().product(), t.elem_count());
        let data = with_elements::<T, _>(t, |x| kernels::index_select_along(&x[..count], indices, shape[dim], inner))
            .ok_or_else(elsewhere)?
            .map_err(|index| outside(index, indices.n))?;
        Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
    }
    claim(indices.at.len().saturating_mul(t.dtype().size_in_bytes()))?;
    let cpu = contiguous(&t.to_device(&Device::Cpu)?)?;
    Ok(by_type!(cpu, run(&cpu, dim, indices, &shape))?.to_device(t.device())?)
}

/// Gathers slices of `size` elements, in row-major order, from each start on to a tensor of this shape.
///
/// # Errors
/// If the result is too large. The caller has checked the starts.
pub(crate) fn pick_slices(t: &Tensor, starts: &[usize], size: usize, shape: &[usize]) -> Result<Tensor, OpError> {
    fn run<T: WithDType + Element>(
        t: &Tensor,
        starts: &[usize],
        size: usize,
        shape: &[usize],
    ) -> Result<Tensor, OpError> {
        let data = with_elements::<T, _>(t, |x| kernels::slices(x, starts, size)).ok_or_else(elsewhere)?;
        Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
    }
    claim(starts.len().saturating_mul(size).saturating_mul(t.dtype().size_in_bytes()))?;
    let cpu = contiguous(&t.to_device(&Device::Cpu)?)?;
    Ok(by_type!(cpu, run(&cpu, starts, size, shape))?.to_device(t.device())?)
}

/// The error for an index out of range.
pub(crate) fn outside(index: i64, n: usize) -> OpError {
    OpError::shape(format!("index {index} of an extent of {n}"))
}

/// Concatenates tensors along a dimension, in the memory order of the largest.
///
/// # Errors
/// If there are none, or their types or other extents differ.
pub(crate) fn join(parts: &[Tensor], dim: usize) -> Result<Tensor, OpError> {
    let first = parts.first().ok_or_else(|| OpError::shape("nothing to join"))?;
    let mut shape = first.dims().to_vec();
    shape[dim] = parts.iter().fold(0, |sum, p| p.dims().get(dim).map_or(sum, |&n| sum.saturating_add(n)));
    for p in parts {
        let same = |d: usize| d == dim || p.dims()[d] == shape[d];
        if p.rank() != shape.len() || !(0..shape.len()).all(same) || p.dtype() != first.dtype() {
            let (a, b) = ((first.dims(), first.dtype()), (p.dims(), p.dtype()));
            return Err(OpError::shape(format!("{a:?} and {b:?} do not join along dimension {dim}")));
        }
    }
    let count = check_size(&shape)?;
    if count == 0 {
        return Ok(Tensor::zeros(shape, first.dtype(), first.device())?);
    }
    claim(count.saturating_mul(first.dtype().size_in_bytes()))?;
    let largest = parts.iter().max_by_key(|p| p.elem_count()).unwrap_or(first);
    let order: Vec<usize> =
        if parts.iter().all(Tensor::is_contiguous) { (0..shape.len()).collect() } else { memory_order(largest) };
    let place = order.iter().position(|&d| d == dim).unwrap_or(0);
    let cpu = |p: &Tensor| contiguous(&p.to_device(&Device::Cpu)?.permute(order.as_slice())?);
    let dense = parts.iter().map(cpu).collect::<Result<Vec<_>, OpError>>()?;
    fn run<T: WithDType + Element>(
        dense: &[Tensor],
        place: usize,
        shape: &[usize],
        order: &[usize],
    ) -> Result<Tensor, OpError> {
        let held: Vec<_> = dense.iter().map(Tensor::storage_and_layout).collect();
        let mut rows: Vec<(&[T], usize)> = Vec::with_capacity(held.len());
        for ((storage, layout), part) in held.iter().zip(dense) {
            let data: &[T] = elements(storage, layout).ok_or_else(elsewhere)?;
            rows.push((&data[..part.elem_count()], part.dims()[place..].iter().product()));
        }
        let outer = order[..place].iter().map(|&d| shape[d]).product();
        from_memory(kernels::concat(&rows, outer), shape, order, &dense[0])
    }
    Ok(by_type!(first, run(&dense, place, &shape, &order))?.to_device(first.device())?)
}

/// The tensor in row-major order, copied only if necessary.
pub(crate) fn contiguous(t: &Tensor) -> Result<Tensor, OpError> {
    if t.is_contiguous() {
        return Ok(t.clone());
    }
    if !t.device().is_cpu() || !matches!(t.dtype(), DType::F32 | DType::I64 | DType::U8) {
        return t.counted_contiguous();
    }
    claim(bytes_of(t))?;
    fn run<T: WithDType + Element>(t: &Tensor) -> Result<Tensor, OpError> {
        let data =
            with_elements::<T, _>(t, |data| kernels::contiguous(t.dims(), Strided { data, strides: t.stride() }))
                .ok_or_else(elsewhere)?;
        Ok(Tensor::from_vec(data, t.dims(), t.device())?)
    }
    by_type!(t, run(t))
}
