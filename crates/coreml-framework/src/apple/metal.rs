//! CPU access to Candle's Metal tensors, needed by Core ML.
//!
//! Candle 0.11 allocates copies to a Metal device in shared memory, and on macOS results of operations in private GPU
//! memory; on iOS everything is shared.

use candle_core::backend::BackendStorage;
use candle_core::{DType, Device, MetalStorage, Storage, Tensor};
use half::{bf16, f16};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLBuffer, MTLResource, MTLStorageMode};

use crate::array::Slice;
use crate::error::NativeError;

fn buffer(storage: &MetalStorage) -> &ProtocolObject<dyn MTLBuffer> {
    storage.buffer().as_ref()
}

fn is_shared(storage: &MetalStorage) -> bool {
    buffer(storage).storageMode() == MTLStorageMode::Shared
}

/// The tensor itself if Core ML can read it in place, else a copy on the CPU.
///
/// # Errors
/// If the copy fails.
pub(super) fn reachable(tensor: &Tensor) -> Result<Tensor, NativeError> {
    let shared = match &*tensor.storage_and_layout().0 {
        Storage::Metal(storage) => is_shared(storage),
        _ => true,
    };
    Ok(if shared { tensor.clone() } else { tensor.to_device(&Device::Cpu)? })
}

/// All elements of a storage, after pending GPU work; `None` for private memory and for types unsupported by Core ML.
///
/// # Errors
/// If the GPU fails.
pub(crate) fn elements(storage: &MetalStorage) -> Result<Option<Slice<'_>>, NativeError> {
    if !is_shared(storage) {
        return Ok(None);
    }
    storage.device().flush_and_wait_current()?;
    macro_rules! slice {
        ($ty:ty) => {{
            let buffer = buffer(storage);
            let length = buffer.length() / size_of::<$ty>();
            // SAFETY: shared memory is mapped for as long as the buffer lives, and the storage, borrowed for as long as
            // the slice, keeps the buffer. It starts at a page or Metal allocation boundary, which is aligned for all
            // numbers; every bit pattern is a valid value. The storage is borrowed through Candle's read lock, so no
            // new operation writes to it, and earlier ones have ended. (Candle's `copy` shares a Metal buffer without
            // its lock: changing such a copy in place changes the original, for Candle as well.)
            unsafe { std::slice::from_raw_parts(buffer.contents().cast::<$ty>().as_ptr(), length) }
        }};
    }
    Ok(Some(match storage.dtype() {
        DType::U8 => Slice::U8(slice!(u8)),
        DType::U32 => Slice::U32(slice!(u32)),
        DType::I16 => Slice::I16(slice!(i16)),
        DType::I32 => Slice::I32(slice!(i32)),
        DType::I64 => Slice::I64(slice!(i64)),
        DType::BF16 => Slice::BF16(slice!(bf16)),
        DType::F16 => Slice::F16(slice!(f16)),
        DType::F32 => Slice::F32(slice!(f32)),
        DType::F64 => Slice::F64(slice!(f64)),
        _ => return Ok(None),
    }))
}
