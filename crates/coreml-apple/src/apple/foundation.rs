//! Foundation's types and Rust's.

use std::path::Path;

use objc2::rc::Retained;
use objc2_foundation::{NSArray, NSError, NSNumber, NSProcessInfo, NSURL};

use crate::error::NativeError;

/// An array of numbers, as shapes and strides are written.
pub(super) fn numbers(values: &[usize]) -> Retained<NSArray<NSNumber>> {
    let values: Vec<_> = values.iter().map(|&n| NSNumber::new_usize(n)).collect();
    NSArray::from_retained_slice(&values)
}

/// The numbers of a shape or of strides; negative ones are errors.
pub(super) fn extents(feature: &str, values: &NSArray<NSNumber>) -> Result<Vec<usize>, NativeError> {
    let extent = |n: Retained<NSNumber>| {
        let n = n.as_i64();
        usize::try_from(n)
            .map_err(|_| NativeError::feature(feature, "an extent or stride of zero or more", n.to_string()))
    };
    values.iter().map(extent).collect()
}

/// The URL of a file or folder.
pub(super) fn url(path: &Path) -> Result<Retained<NSURL>, NativeError> {
    let bad = || NativeError::Path { path: path.to_owned() };
    let path = std::path::absolute(path).map_err(|_| bad())?;
    let url = if path.is_dir() { NSURL::from_directory_path(&path) } else { NSURL::from_file_path(&path) };
    url.ok_or_else(bad)
}

/// The closure itself, if other threads may run and drop it: blocks don't ask for that, but Core ML does it.
pub(super) fn for_any_thread<F: Send + 'static>(closure: F) -> F {
    closure
}

/// An error of the framework with what was being done.
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

/// The error that a completion handler was called with. Handlers that get neither a result nor an error are
/// against the documentation, yet must not be believed to have succeeded.
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

/// The system's version with its build, such as `Version 15.1 (Build 24B83)`.
pub(super) fn os_version() -> String {
    NSProcessInfo::processInfo().operatingSystemVersionString().to_string()
}
