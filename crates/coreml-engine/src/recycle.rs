//! Returns the buffers of dying tensors to the pool (see [`coreml_kernels::buffer_pool`]).

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor};
use coreml_kernels::buffer_pool;

/// Address of a tensor's buffer, the same for all its views; `None` if the pool does not handle such buffers.
pub(crate) fn address(tensor: &Tensor) -> Option<usize> {
    match &*tensor.storage_and_layout().0 {
        Storage::Cpu(CpuStorage::F32(data)) => Some(data.as_ptr() as usize),
        _ => None,
    }
}

/// Recycles a temporary copy of a tensor, unless it shares the tensor's buffer.
pub(crate) fn recycle_temp(copy: &Tensor, of: &Tensor) {
    if address(copy) != address(of) {
        take_memory(copy);
    }
}

/// Takes the buffer from a tensor that is about to be dropped along with all tensors that share it.
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
