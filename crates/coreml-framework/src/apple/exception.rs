//! Exceptions of Objective-C as errors.
//!
//! Core ML reports most failures by `NSError`, but raises exceptions for some, out of `MLE5OutputPortBinder` for
//! instance. Rust ends the process when one arrives. With the feature `exceptions` they are caught where they are
//! raised: around single calls, so that no Rust value is on the stack between.

use crate::error::NativeError;

/// Runs one call into the framework.
///
/// # Errors
/// [`NativeError::Exception`] if it raises one.
#[cfg(feature = "exceptions")]
pub(super) fn guarded<R>(doing: impl FnOnce() -> String, call: impl FnOnce() -> R) -> Result<R, NativeError> {
    use objc2_foundation::NSException;

    objc2::exception::catch(std::panic::AssertUnwindSafe(call)).map_err(|exception| {
        let (mut name, mut reason) = ("nil".to_owned(), String::new());
        if let Some(exception) = exception {
            match exception.downcast_ref::<NSException>() {
                Some(exception) => {
                    name = exception.name().to_string();
                    reason = exception.reason().map(|r| r.to_string()).unwrap_or_default();
                }
                None => name = exception.class().name().to_string_lossy().into_owned(),
            }
        }
        tracing::warn!(name, reason, "Core ML raised an exception");
        NativeError::Exception { doing: doing(), name, reason }
    })
}

/// Runs one call into the framework. Without the feature `exceptions`, an exception ends the process.
#[cfg(not(feature = "exceptions"))]
pub(super) fn guarded<R>(_doing: impl FnOnce() -> String, call: impl FnOnce() -> R) -> Result<R, NativeError> {
    Ok(call())
}

#[cfg(all(test, feature = "exceptions"))]
mod tests {
    use super::*;
    use objc2_foundation::{NSArray, NSObject};

    #[test]
    fn an_exception_is_an_error_with_its_name() {
        let empty = NSArray::<NSObject>::new();
        // Documented to raise NSRangeException.
        let error = guarded(|| "looking".to_owned(), || drop(empty.objectAtIndex(7))).expect_err("out of range");
        let NativeError::Exception { doing, name, reason } = error else { panic!("{error}") };
        assert_eq!((doing.as_str(), name.as_str()), ("looking", "NSRangeException"));
        assert!(reason.contains('7'), "{reason}");
        assert_eq!(guarded(|| "counting".to_owned(), || empty.count()).expect("no exception"), 0);
    }
}
