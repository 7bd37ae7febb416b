//! Memory of `MLMultiArray`s.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use block2::RcBlock;
use half::f16;
use objc2::AllocAnyThread;
use objc2::rc::Retained;
use objc2_core_ml::{MLMultiArray, MLMultiArrayDataType};
use objc2_foundation::{NSArray, NSNumber};

use super::foundation::{extents, failure, for_any_thread, numbers};
use crate::array::{ArrayType, Buffer};
use crate::error::NativeError;
use crate::lend::Loan;
use crate::strided::{Layout, StrideError};

// The platform-neutral constants match the framework's.
const _: () = {
    assert!(MLMultiArrayDataType::Float16.0 == 0x10010 && MLMultiArrayDataType::Float32.0 == 0x10020);
    assert!(MLMultiArrayDataType::Float64.0 == 0x10040);
    assert!(MLMultiArrayDataType::Int32.0 == 0x20020 && MLMultiArrayDataType::Int8.0 == 0x20008);
};

/// Row-major strides of a dense array.
fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    strides
}

/// Creates an array over borrowed memory. The loan is returned when Core ML releases the array, which happens on one of
/// its own queues, up to seconds after the prediction.
///
/// # Safety
/// `pointer` must point to the first of `shape`'s dense row-major elements of type `ty`. They must stay allocated while
/// the loan is held, and must not change while a prediction uses the array.
pub(super) unsafe fn over<T: Send + 'static>(
    feature: &str,
    ty: ArrayType,
    shape: &[usize],
    pointer: NonNull<c_void>,
    loan: Loan<T>,
) -> Result<Retained<MLMultiArray>, NativeError> {
    let loan = Mutex::new(Some(loan));
    // The block may run on any thread, because a loan is `Send`; it returns the loan when it first runs, or when it is
    // destroyed without having run.
    let release = RcBlock::new(for_any_thread(move |_: NonNull<c_void>| {
        drop(loan.lock().unwrap_or_else(PoisonError::into_inner).take());
    }));
    let array = MLMultiArray::alloc();
    let (extents, strides) = (numbers(shape), numbers(&dense_strides(shape)));
    let ty = MLMultiArrayDataType(ty.code());
    // SAFETY: the caller vouches for the memory; shape and strides have equal length and describe it densely; the
    // framework copies the block.
    unsafe {
        MLMultiArray::initWithDataPointer_shape_dataType_strides_deallocator_error(
            array,
            pointer,
            &extents,
            ty,
            &strides,
            Some(&release),
        )
    }
    .map_err(|e| failure(format!("wrapping input `{feature}` of shape {shape:?}"), &e))
}

/// Creates an array that owns its memory.
pub(super) fn owned(feature: &str, ty: ArrayType, shape: &[usize]) -> Result<Retained<MLMultiArray>, NativeError> {
    let array = MLMultiArray::alloc();
    let ty = MLMultiArrayDataType(ty.code());
    // SAFETY: rule 1; the framework allocates.
    unsafe { MLMultiArray::initWithShape_dataType_error(array, &numbers(shape), ty) }
        .map_err(|e| failure(format!("allocating output `{feature}` of shape {shape:?}"), &e))
}

/// Element type and shape of an array.
pub(super) fn kind(feature: &str, array: &MLMultiArray) -> Result<(ArrayType, Vec<usize>), NativeError> {
    // SAFETY: getters.
    let (code, shape) = unsafe { (array.dataType().0, array.shape()) };
    let ty = ArrayType::from_code(code)
        .ok_or_else(|| NativeError::feature(feature, "a known array data type", format!("code {code}")))?;
    Ok((ty, extents(feature, &shape)?))
}

/// Reads all elements of an array, gathered row by row whatever its strides.
///
/// # Errors
/// If the strides do not fit the memory, or the element type is unknown.
pub(super) fn read(feature: &str, array: &MLMultiArray) -> Result<(Vec<usize>, Buffer), NativeError> {
    let (ty, shape) = kind(feature, array)?;
    let result = Cell::new(None);
    let handler = RcBlock::new(|bytes: NonNull<c_void>, size: isize| {
        // Query strides inside the handler: they describe the memory that it sees.
        // SAFETY: a getter.
        let strides = unsafe { array.strides() };
        let layout = layout(feature, &shape, &strides);
        // SAFETY: the framework lends the handler `size` bytes for the duration of the call.
        let gathered = layout.and_then(|l| unsafe { gather(feature, ty, &l, bytes, size) });
        result.set(Some(gathered));
    });
    // SAFETY: the handler is called before the method returns, if at all, and keeps nothing.
    unsafe { array.getBytesWithHandler(&handler) };
    drop(handler);
    let gathered =
        result.take().unwrap_or_else(|| Err(NativeError::feature(feature, "memory that can be read", "none")));
    Ok((shape, gathered?))
}

/// Replaces all elements of an array.
///
/// # Errors
/// If the buffer has another type or length, or the strides do not fit the memory.
pub(super) fn write(feature: &str, array: &MLMultiArray, from: &Buffer) -> Result<(), NativeError> {
    let (ty, shape) = kind(feature, array)?;
    if ty != from.array_type() {
        return Err(NativeError::feature(feature, ty.data_type().name(), from.array_type().data_type().name()));
    }
    let result = Cell::new(None);
    let handler = RcBlock::new(|bytes: NonNull<c_void>, size: isize, strides: NonNull<NSArray<NSNumber>>| {
        // SAFETY: the framework passes an array that lives as long as the call.
        let layout = layout(feature, &shape, unsafe { strides.as_ref() });
        // SAFETY: the framework lends the handler `size` writable bytes for the duration of the call.
        let scattered = layout.and_then(|l| unsafe { scatter(feature, from, &l, bytes, size) });
        result.set(Some(scattered));
    });
    // SAFETY: the handler is called before the method returns, if at all, and keeps nothing.
    unsafe { array.getMutableBytesWithHandler(&handler) };
    result.take().unwrap_or_else(|| Err(NativeError::feature(feature, "memory that can be written", "none")))
}

fn layout(feature: &str, shape: &[usize], strides: &NSArray<NSNumber>) -> Result<Layout, NativeError> {
    Layout::new(shape, &extents(feature, strides)?).map_err(|source| stride(feature, source))
}

fn stride(feature: &str, source: StrideError) -> NativeError {
    NativeError::Stride { feature: feature.to_owned(), source }
}

/// Number of elements in `size` bytes, if the address is aligned.
fn elements<T>(feature: &str, bytes: NonNull<c_void>, size: isize) -> Result<usize, NativeError> {
    if !bytes.cast::<T>().is_aligned() {
        let (expected, found) = (format!("memory aligned to {} bytes", align_of::<T>()), format!("{bytes:?}"));
        return Err(NativeError::feature(feature, expected, found));
    }
    let size = usize::try_from(size).map_err(|_| NativeError::feature(feature, "a size", size.to_string()))?;
    Ok(size / size_of::<T>())
}

/// # Safety
/// `bytes` must point to `size` readable bytes that do not change during the call.
unsafe fn gather(
    feature: &str,
    ty: ArrayType,
    layout: &Layout,
    bytes: NonNull<c_void>,
    size: isize,
) -> Result<Buffer, NativeError> {
    macro_rules! rows {
        ($variant:ident, $ty:ty, $zero:expr) => {{
            let length = elements::<$ty>(feature, bytes, size)?;
            // SAFETY: the caller vouches for the memory; it is aligned, `length` elements lie within `size` bytes, and
            // every bit pattern is a valid value.
            let strided = unsafe { std::slice::from_raw_parts(bytes.cast::<$ty>().as_ptr(), length) };
            let mut dense = vec![$zero; layout.elements()];
            layout.gather(strided, &mut dense).map_err(|e| stride(feature, e))?;
            Buffer::$variant(dense)
        }};
    }
    Ok(match ty {
        ArrayType::F16 => rows!(F16, f16, f16::ZERO),
        ArrayType::F32 => rows!(F32, f32, 0.0),
        ArrayType::F64 => rows!(F64, f64, 0.0),
        ArrayType::I8 => rows!(I8, i8, 0),
        ArrayType::I32 => rows!(I32, i32, 0),
    })
}

/// # Safety
/// `bytes` must point to `size` initialised, writable bytes that nothing else uses during the call.
unsafe fn scatter(
    feature: &str,
    from: &Buffer,
    layout: &Layout,
    bytes: NonNull<c_void>,
    size: isize,
) -> Result<(), NativeError> {
    macro_rules! rows {
        ($dense:expr, $ty:ty) => {{
            let length = elements::<$ty>(feature, bytes, size)?;
            // SAFETY: as in `gather`, and nothing else uses the memory.
            let strided = unsafe { std::slice::from_raw_parts_mut(bytes.cast::<$ty>().as_ptr(), length) };
            layout.scatter($dense, strided).map_err(|e| stride(feature, e))
        }};
    }
    match from {
        Buffer::F16(v) => rows!(v, f16),
        Buffer::F32(v) => rows!(v, f32),
        Buffer::F64(v) => rows!(v, f64),
        Buffer::I8(v) => rows!(v, i8),
        Buffer::I32(v) => rows!(v, i32),
    }
}
