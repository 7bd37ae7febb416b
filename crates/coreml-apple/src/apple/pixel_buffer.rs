//! Buffers of pixels (`CVPixelBuffer`) in IOSurfaces, which processors share without copying.

use std::ptr::{self, NonNull};

use objc2_core_foundation::{CFDictionary, CFRetained, CFString};
use objc2_core_video::{
    CVPixelBuffer, CVPixelBufferCreate, CVPixelBufferGetBaseAddress, CVPixelBufferGetBytesPerRow,
    CVPixelBufferGetHeight, CVPixelBufferGetPixelFormatType, CVPixelBufferGetWidth, CVPixelBufferIsPlanar,
    CVPixelBufferLockBaseAddress, CVPixelBufferLockFlags, CVPixelBufferUnlockBaseAddress,
    kCVPixelBufferIOSurfacePropertiesKey, kCVPixelFormatType_32ABGR, kCVPixelFormatType_32ARGB,
    kCVPixelFormatType_32BGRA, kCVPixelFormatType_32RGBA, kCVPixelFormatType_OneComponent8,
    kCVPixelFormatType_OneComponent16Half, kCVReturnSuccess,
};

use crate::error::NativeError;
use crate::pixels::{PixelError, PixelFormat, Rows};

// The neutral constants are those of the framework.
const _: () = {
    assert!(PixelFormat::Gray8.code() == kCVPixelFormatType_OneComponent8);
    assert!(PixelFormat::GrayF16.code() == kCVPixelFormatType_OneComponent16Half);
    assert!(PixelFormat::Bgra.code() == kCVPixelFormatType_32BGRA);
    assert!(PixelFormat::Rgba.code() == kCVPixelFormatType_32RGBA);
    assert!(PixelFormat::Argb.code() == kCVPixelFormatType_32ARGB);
    assert!(PixelFormat::Abgr.code() == kCVPixelFormatType_32ABGR);
};

/// A buffer of zeros in an IOSurface.
///
/// # Errors
/// What the system answers when it refuses the size.
pub(super) fn create(
    feature: &str,
    format: PixelFormat,
    width: usize,
    height: usize,
) -> Result<CFRetained<CVPixelBuffer>, NativeError> {
    // An empty dictionary asks for a surface with the system's own choices.
    let properties = CFDictionary::<CFString, CFString>::empty();
    // SAFETY: a constant of the framework.
    let key = unsafe { kCVPixelBufferIOSurfacePropertiesKey };
    let attributes = CFDictionary::<CFString, CFDictionary<CFString, CFString>>::from_slices(&[key], &[&properties]);
    let mut buffer: *mut CVPixelBuffer = ptr::null_mut();
    let format = format.code();
    // SAFETY: the attributes have the types that the key asks for; the pointer is to a local variable.
    let code = unsafe {
        let out = NonNull::from(&mut buffer);
        CVPixelBufferCreate(None, width, height, format, Some(attributes.as_opaque()), out)
    };
    let refused = || NativeError::Framework {
        doing: format!("allocating a surface for `{feature}`"),
        domain: "CVReturn".to_owned(),
        code: code as isize,
        message: format!("{width} × {height} pixels in the format {format:#x}"),
    };
    match NonNull::new(buffer) {
        // SAFETY: a created object, whose only reference is ours.
        Some(buffer) if code == kCVReturnSuccess => Ok(unsafe { CFRetained::from_raw(buffer) }),
        _ => Err(refused()),
    }
}

/// A buffer whose memory the CPU may use until this is dropped: the framework gets it back then.
struct Held<'b> {
    buffer: &'b CVPixelBuffer,
    flags: CVPixelBufferLockFlags,
    rows: Rows,
    bytes: NonNull<u8>,
    length: usize,
}

impl<'b> Held<'b> {
    /// Waits for other processors to be done with the memory.
    fn new(
        feature: &str,
        buffer: &'b CVPixelBuffer,
        flags: CVPixelBufferLockFlags,
        pixel: usize,
    ) -> Result<Self, NativeError> {
        if CVPixelBufferIsPlanar(buffer) {
            return Err(NativeError::feature(feature, "pixels in one plane", "several planes"));
        }
        let rows = Rows {
            width: CVPixelBufferGetWidth(buffer),
            height: CVPixelBufferGetHeight(buffer),
            row: CVPixelBufferGetBytesPerRow(buffer),
        };
        let length = rows.span(pixel).map_err(|source| pixels(feature, source))?;
        // SAFETY: a buffer with flags that the unlocking repeats.
        let code = unsafe { CVPixelBufferLockBaseAddress(buffer, flags) };
        if code != kCVReturnSuccess {
            return Err(NativeError::Framework {
                doing: format!("using the pixels of `{feature}`"),
                domain: "CVReturn".to_owned(),
                code: code as isize,
                message: "the memory can't be locked".to_owned(),
            });
        }
        // From here on, dropping unlocks.
        let mut held = Self { buffer, flags, rows, bytes: NonNull::dangling(), length };
        let bytes = NonNull::new(CVPixelBufferGetBaseAddress(buffer).cast());
        held.bytes = bytes.ok_or_else(|| NativeError::feature(feature, "memory of the pixels", "none"))?;
        Ok(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: locked by `new` with the same flags. Unlocking fails only for buffers that are not locked.
        unsafe { CVPixelBufferUnlockBaseAddress(self.buffer, self.flags) };
    }
}

/// Reads the memory of a buffer with pixels of `pixel` bytes: its rows, from the first byte to the last pixel's.
///
/// # Errors
/// Buffers in planes, rows that can't be, memory that can't be had, and what `read` answers.
pub(super) fn read<R>(
    feature: &str,
    buffer: &CVPixelBuffer,
    pixel: usize,
    read: impl FnOnce(Rows, &[u8]) -> Result<R, NativeError>,
) -> Result<R, NativeError> {
    let held = Held::new(feature, buffer, CVPixelBufferLockFlags::ReadOnly, pixel)?;
    // SAFETY: the locked memory of a buffer without planes holds its rows, `length` bytes as `Rows::span` counts
    // them; pixels are plain bytes, which the system has initialised; nobody writes a buffer that is locked for
    // reading. The lock is held until the slice is gone.
    read(held.rows, unsafe { std::slice::from_raw_parts(held.bytes.as_ptr(), held.length) })
}

/// Writes the memory of a buffer that nobody else uses, as [`read`] reads it.
///
/// # Errors
/// As [`read`].
///
/// # Safety
/// The buffer must come from [`create`], and neither another thread nor a prediction may use it meanwhile.
pub(super) unsafe fn write<R>(
    feature: &str,
    buffer: &CVPixelBuffer,
    pixel: usize,
    write: impl FnOnce(Rows, &mut [u8]) -> Result<R, NativeError>,
) -> Result<R, NativeError> {
    let held = Held::new(feature, buffer, CVPixelBufferLockFlags::empty(), pixel)?;
    // SAFETY: as in `read`; surfaces are made of zeroed pages, and the caller promises that nobody else uses it.
    write(held.rows, unsafe { std::slice::from_raw_parts_mut(held.bytes.as_ptr(), held.length) })
}

/// Format of the pixels of a buffer.
pub(super) fn format(feature: &str, buffer: &CVPixelBuffer) -> Result<PixelFormat, NativeError> {
    let code = CVPixelBufferGetPixelFormatType(buffer);
    let unknown = || NativeError::feature(feature, "a known pixel format", format!("code {code:#x}"));
    PixelFormat::from_code(code).ok_or_else(unknown)
}

/// What is wrong with pixels, and whose they are.
pub(super) fn pixels(feature: &str, source: PixelError) -> NativeError {
    NativeError::Pixels { feature: feature.to_owned(), source }
}
