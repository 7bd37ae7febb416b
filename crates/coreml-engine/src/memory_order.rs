//! Elements of a tensor as a slice, and the memory order of its dimensions.

use candle_core::{CpuStorage, Layout, Storage, Tensor, WithDType};

use crate::error::OpError;

/// Dimensions of a tensor from outermost to innermost in memory.
pub(crate) fn memory_order(t: &Tensor) -> Vec<usize> {
    let strides = t.stride();
    let mut order: Vec<usize> = (0..strides.len()).collect();
    // Stable sort: dimensions of extent one keep their position.
    order.sort_by_key(|&d| std::cmp::Reverse(if t.dims()[d] == 1 { usize::MAX } else { strides[d] }));
    order
}

/// Inverse of a permutation.
pub(crate) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &d)| back[d] = i);
    back
}

/// Calls `f` with the elements of an `F32` CPU tensor in memory order, if they have no gaps; also returns the order of
/// the dimensions.
pub(crate) fn with_memory<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Option<(R, Vec<usize>)> {
    let order = memory_order(t);
    let count = is_dense(t, &order).then(|| t.elem_count())?;
    with_elements(t, |data| Some(f(data.get(..count)?))).flatten().map(|r| (r, order))
}

/// True if the elements have no gaps with the dimensions in this order.
pub(crate) fn is_dense(t: &Tensor, order: &[usize]) -> bool {
    let mut next = 1;
    order.iter().rev().all(|&d| {
        let (n, stride) = (t.dims()[d], t.stride()[d]);
        let fits = n == 1 || stride == next;
        next *= n;
        fits
    })
}

/// Builds a tensor from elements stored in the given order of its dimensions.
pub(crate) fn from_memory<T: WithDType>(
    data: Vec<T>,
    shape: &[usize],
    order: &[usize],
    like: &Tensor,
) -> Result<Tensor, OpError> {
    if order.is_sorted() {
        return Ok(Tensor::from_vec(data, shape, like.device())?);
    }
    let permuted: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
    Ok(Tensor::from_vec(data, permuted, like.device())?.permute(inverse(order))?)
}

/// Elements of a CPU storage from the start of a layout, if they have this type.
pub(crate) fn elements<'s, T: WithDType>(storage: &'s Storage, layout: &Layout) -> Option<&'s [T]> {
    match storage {
        Storage::Cpu(storage) => T::cpu_storage_as_slice(storage).ok()?.get(layout.start_offset()..),
        _ => None,
    }
}

/// Calls `f` with the elements of a CPU tensor, from its first one.
pub(crate) fn with_elements<T: WithDType, R>(t: &Tensor, f: impl FnOnce(&[T]) -> R) -> Option<R> {
    let (storage, layout) = t.storage_and_layout();
    elements(&storage, layout).map(f)
}

/// Calls `f` with the elements of a contiguous `F32` CPU tensor, without copying.
pub(crate) fn with_f32s<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Option<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => data.get(start..end).map(f),
        _ => None,
    }
}
