//! The elements of a tensor as a slice, and the order in which its dimensions lie in memory.

use candle_core::{CpuStorage, Layout, Storage, Tensor, WithDType};

use crate::error::OpError;

/// The dimensions of a tensor from the outermost to the innermost in memory.
pub(crate) fn memory_order(t: &Tensor) -> Vec<usize> {
    let strides = t.stride();
    let mut order: Vec<usize> = (0..strides.len()).collect();
    // Stable: dimensions of extent one stay where they are.
    order.sort_by_key(|&d| std::cmp::Reverse(if t.dims()[d] == 1 { usize::MAX } else { strides[d] }));
    order
}

/// The order that undoes a permutation.
pub(crate) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &d)| back[d] = i);
    back
}

/// Runs `f` on the elements of an `F32` tensor on the CPU in the order in which they lie in memory, if they lie without
/// gaps; returns the order of the dimensions too.
pub(crate) fn with_memory<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Option<(R, Vec<usize>)> {
    let order = memory_order(t);
    let count = is_dense(t, &order).then(|| t.elem_count())?;
    with_elements(t, |data| Some(f(data.get(..count)?))).flatten().map(|r| (r, order))
}

/// Whether the elements lie without gaps when its dimensions are in this order.
pub(crate) fn is_dense(t: &Tensor, order: &[usize]) -> bool {
    let mut next = 1;
    order.iter().rev().all(|&d| {
        let (n, stride) = (t.dims()[d], t.stride()[d]);
        let fits = n == 1 || stride == next;
        next *= n;
        fits
    })
}

/// A tensor from elements in the given order of its dimensions.
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

/// The elements in a storage in CPU memory from the first one of a layout on, if they have this type.
pub(crate) fn elements<'s, T: WithDType>(storage: &'s Storage, layout: &Layout) -> Option<&'s [T]> {
    match storage {
        Storage::Cpu(storage) => T::cpu_storage_as_slice(storage).ok()?.get(layout.start_offset()..),
        _ => None,
    }
}

/// Runs `f` on the elements of a tensor on the CPU, from its first one on.
pub(crate) fn with_elements<T: WithDType, R>(t: &Tensor, f: impl FnOnce(&[T]) -> R) -> Option<R> {
    let (storage, layout) = t.storage_and_layout();
    elements(&storage, layout).map(f)
}

/// Runs `f` on the elements of an `F32` tensor without copying, if it is contiguous and in CPU memory.
pub(crate) fn with_f32s<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Option<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => data.get(start..end).map(f),
        _ => None,
    }
}
