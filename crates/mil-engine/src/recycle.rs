//! Buffers of tensors that are about to be dropped, handed back to the pool (see [`mil_kernels::buffer_pool`]).

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor};
use mil_kernels::buffer_pool;

/// Where the memory of a tensor begins, whichever part of it the tensor is; none if results are not made of such memory.
pub(crate) fn address(tensor: &Tensor) -> Option<usize> {
    match &*tensor.storage_and_layout().0 {
        Storage::Cpu(CpuStorage::F32(data)) => Some(data.as_ptr() as usize),
        _ => None,
    }
}

/// Drops a copy that an operation made of a tensor for itself, or another handle to the same memory.
pub(crate) fn recycle_temp(copy: &Tensor, of: &Tensor) {
    if address(copy) != address(of) {
        take_memory(copy);
    }
}

/// Leaves a tensor that is about to be dropped, as are all that share its memory, without it.
pub(crate) fn take_memory(tensor: &Tensor) {
    struct Take(Cell<Vec<f32>>);
    impl InplaceOp1 for Take {
        fn name(&self) -> &'static str {
            "take-memory"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
            if let CpuStorage::F32(data) = storage {
                self.0.set(std::mem::take(data));
            }
            Ok(())
        }
    }
    let take = Take(Cell::default());
    if tensor.inplace_op1(&take).is_ok() {
        buffer_pool::recycle(take.0.into_inner());
    }
}
