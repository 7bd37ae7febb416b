//! Conversions between Foundation and Rust types.

use std::ffi::CStr;
use std::path::Path;

use objc2::rc::{Retained, autoreleasepool};
use objc2_foundation::{NSArray, NSError, NSNumber, NSProcessInfo, NSURL};

use crate::error::NativeError;

/// Array of `NSNumber`s, the form of shapes and strides.
pub(super) fn numbers(values: &[usize]) -> Retained<NSArray<NSNumber>> {
    let values: Vec<_> = values.iter().map(|&n| NSNumber::new_usize(n)).collect();
    NSArray::from_retained_slice(&values)
}

/// Reads a shape or strides; negative numbers are errors.
pub(super) fn extents(feature: &str, values: &NSArray<NSNumber>) -> Result<Vec<usize>, NativeError> {
    let extent = |n: Retained<NSNumber>| {
        let n = n.as_i64();
        usize::try_from(n)
            .map_err(|_| NativeError::feature(feature, "an extent or stride of zero or more", n.to_string()))
    };
    values.iter().map(extent).collect()
}

/// URL of a file or folder.
pub(super) fn url(path: &Path) -> Result<Retained<NSURL>, NativeError> {
    let bad = || NativeError::Path { path: path.to_owned() };
    let path = std::path::absolute(path).map_err(|_| bad())?;
    let url = if path.is_dir() { NSURL::from_directory_path(&path) } else { NSURL::from_file_path(&path) };
    url.ok_or_else(bad)
}

/// Identity with a `Send` bound, for closures that Core ML runs and drops on other threads: blocks do not require it.
pub(super) fn for_any_thread<F: Send + 'static>(closure: F) -> F {
    closure
}

/// Wraps a framework error with the failed action.
pub(super) fn failure(doing: impl Into<String>, error: &NSError) -> NativeError {
    let mut message = error.localizedDescription().to_string();
    if let Some(reason) = error.localizedFailureReason() {
        message = format!("{message} {reason}");
    }
    for cause in error.underlyingErrors().iter().take(4) {
        message = format!("{message}: {}", cause.localizedDescription());
    }
    NativeError::Framework { doing: doing.into(), domain: error.domain().to_string(), code: error.code(), message }
}

/// Error passed to a completion handler. Passing neither result nor error violates the documentation, but must not
/// count as success.
pub(super) fn handler_failure(doing: impl Into<String>, error: *mut NSError) -> NativeError {
    // SAFETY: completion handlers are called with nil or with an error that lives as long as the call.
    match unsafe { error.as_ref() } {
        Some(error) => failure(doing, error),
        None => NativeError::Framework {
            doing: doing.into(),
            domain: "candle-coreml".to_owned(),
            code: 0,
            message: "neither a result nor an error".to_owned(),
        },
    }
}

/// System version with build, such as `15.1.0 24B83`: not the description, which is in the user's language.
pub fn system() -> String {
    let version = autoreleasepool(|_| NSProcessInfo::processInfo().operatingSystemVersion());
    let (major, minor, patch) = (version.majorVersion, version.minorVersion, version.patchVersion);
    format!("{major}.{minor}.{patch} {}", build().unwrap_or_default())
}

/// Build of the system, such as `24B83` (`kern.osversion`).
fn build() -> Option<String> {
    let mut text = [0_u8; 64];
    let mut size = text.len();
    // SAFETY: the name ends with a zero; the kernel writes at most `size` bytes and their number; nothing is set.
    let failed = unsafe {
        libc::sysctlbyname(c"kern.osversion".as_ptr(), text.as_mut_ptr().cast(), &mut size, std::ptr::null_mut(), 0)
    };
    if failed != 0 {
        return None;
    }
    let text = CStr::from_bytes_until_nul(text.get(..size)?).ok()?;
    Some(text.to_str().ok()?.to_owned())
}
