//! Pixel buffers (`CVPixelBuffer`) backed by IOSurfaces, which processors share without copying.

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

// The platform-neutral constants match the framework's.
const _: () = {
    assert!(PixelFormat::Gray8.code() == kCVPixelFormatType_OneComponent8);
    assert!(PixelFormat::GrayF16.code() == kCVPixelFormatType_OneComponent16Half);
    assert!(PixelFormat::Bgra.code() == kCVPixelFormatType_32BGRA);
    assert!(PixelFormat::Rgba.code() == kCVPixelFormatType_32RGBA);
    assert!(PixelFormat::Argb.code() == kCVPixelFormatType_32ARGB);
    assert!(PixelFormat::Abgr.code() == kCVPixelFormatType_32ABGR);
};

/// Creates a zeroed buffer in an IOSurface.
///
/// # Errors
/// If the system rejects the size.
pub(super) fn create(
    feature: &str,
    format: PixelFormat,
    width: usize,
    height: usize,
) -> Result<CFRetained<CVPixelBuffer>, NativeError> {
    // An empty dictionary requests a surface with default properties.
    let properties = CFDictionary::<CFString, CFString>::empty();
    // SAFETY: a constant of the framework.
    let key = unsafe { kCVPixelBufferIOSurfacePropertiesKey };
    let attributes = CFDictionary::<CFString, CFDictionary<CFString, CFString>>::from_slices(&[key], &[&properties]);
    let mut buffer: *mut CVPixelBuffer = ptr::null_mut();
    let format = format.code();
    // SAFETY: the attributes have the types that the key requires; the pointer is to a local variable.
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
        // SAFETY: a newly created object; we hold its only reference.
        Some(buffer) if code == kCVReturnSuccess => Ok(unsafe { CFRetained::from_raw(buffer) }),
        _ => Err(refused()),
    }
}

/// A buffer locked for CPU access until dropped.
struct Held<'b> {
    buffer: &'b CVPixelBuffer,
    flags: CVPixelBufferLockFlags,
    rows: Rows,
    bytes: NonNull<u8>,
    length: usize,
}

impl<'b> Held<'b> {
    /// Locks the buffer, waiting for other processors to finish with it.
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
        // SAFETY: the buffer is unlocked with the same flags.
        let code = unsafe { CVPixelBufferLockBaseAddress(buffer, flags) };
        if code != kCVReturnSuccess {
            return Err(NativeError::Framework {
                doing: format!("using the pixels of `{feature}`"),
                domain: "CVReturn".to_owned(),
                code: code as isize,
                message: "the memory can't be locked".to_owned(),
            });
        }
        // From here on, drop unlocks.
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

/// Reads the memory of a buffer with pixels of `pixel` bytes: its rows, from the first byte to the end of the last
/// pixel.
///
/// # Errors
/// If the buffer is planar, its rows are invalid, it cannot be locked, or `read` fails.
pub(super) fn read<R>(
    feature: &str,
    buffer: &CVPixelBuffer,
    pixel: usize,
    read: impl FnOnce(Rows, &[u8]) -> Result<R, NativeError>,
) -> Result<R, NativeError> {
    let held = Held::new(feature, buffer, CVPixelBufferLockFlags::ReadOnly, pixel)?;
    // SAFETY: the locked memory of a non-planar buffer holds its rows, `length` bytes as computed by `Rows::span`;
    // pixels are plain bytes, initialised by the system; nothing writes a buffer that is locked for reading. The lock
    // is held until the slice is gone.
    read(held.rows, unsafe { std::slice::from_raw_parts(held.bytes.as_ptr(), held.length) })
}

/// Writes the memory of a buffer in exclusive use; see [`read`].
///
/// # Errors
/// Same as [`read`].
///
/// # Safety
/// The buffer must come from [`create`], and no other thread or prediction may use it during the call.
pub(super) unsafe fn write<R>(
    feature: &str,
    buffer: &CVPixelBuffer,
    pixel: usize,
    write: impl FnOnce(Rows, &mut [u8]) -> Result<R, NativeError>,
) -> Result<R, NativeError> {
    let held = Held::new(feature, buffer, CVPixelBufferLockFlags::empty(), pixel)?;
    // SAFETY: as in `read`; surfaces are made of zeroed pages, and the caller guarantees exclusive use.
    write(held.rows, unsafe { std::slice::from_raw_parts_mut(held.bytes.as_ptr(), held.length) })
}

/// Pixel format of a buffer.
pub(super) fn format(feature: &str, buffer: &CVPixelBuffer) -> Result<PixelFormat, NativeError> {
    let code = CVPixelBufferGetPixelFormatType(buffer);
    let unknown = || NativeError::feature(feature, "a known pixel format", format!("code {code:#x}"));
    PixelFormat::from_code(code).ok_or_else(unknown)
}

/// Wraps a pixel error with its feature.
pub(super) fn pixels(feature: &str, source: PixelError) -> NativeError {
    NativeError::Pixels { feature: feature.to_owned(), source }
}
