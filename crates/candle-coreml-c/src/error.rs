//! Errors with their fields, and the border that no panic crosses.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_coreml::Error;

/// An error; freed by `ccml_error_free`.
#[derive(Debug)]
pub struct CcmlError {
    message: CString,
    kind: CString,
    file: Option<CString>,
    feature: Option<CString>,
    expected: Option<CString>,
    found: Option<CString>,
}

/// A text for C: what follows a zero byte is left out.
pub(crate) fn c_text(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    CString::new(bytes).unwrap_or_default()
}

impl CcmlError {
    fn of(error: &Error) -> Self {
        let (expected, found) = error.expected_and_found().unzip();
        Self {
            message: c_text(error.to_string()),
            kind: c_text(error.kind().name()),
            file: error.path().map(|path| c_text(path.display().to_string())),
            feature: error.feature().map(c_text),
            expected: expected.map(c_text),
            found: found.flatten().map(c_text),
        }
    }
}

/// Works; an error or a panic becomes `None` and is written to `error`.
///
/// # Safety
/// `error` is null or points to memory for a pointer.
pub(crate) unsafe fn border<T>(error: *mut *mut CcmlError, work: impl FnOnce() -> Result<T, Error>) -> Option<T> {
    let failed = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(failed)) => failed,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Error::Aborted(text.to_owned())
        }
    };
    if !error.is_null() {
        // SAFETY: not null, and the caller says that it points to memory for a pointer.
        unsafe { error.write(Box::into_raw(Box::new(CcmlError::of(&failed)))) };
    }
    None
}

/// The object behind a pointer.
///
/// # Safety
/// `pointer` is null or points to an object that lives, unchanged, for `'a`.
pub(crate) unsafe fn object<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Error> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| Error::Request(format!("`{what}` is null")))
}

/// A text.
///
/// # Safety
/// `pointer` is null or points to a text that ends with a zero byte and lives, unchanged, for `'a`.
pub(crate) unsafe fn text<'a>(what: &str, pointer: *const c_char) -> Result<&'a str, Error> {
    if pointer.is_null() {
        return Err(Error::Request(format!("`{what}` is null")));
    }
    // SAFETY: not null; the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|e| Error::Request(format!("`{what}` is not UTF-8: {e}")))
}

/// A text that may be null.
///
/// # Safety
/// Same as [`text`].
pub(crate) unsafe fn optional_text<'a>(what: &str, pointer: *const c_char) -> Result<Option<&'a str>, Error> {
    // SAFETY: the caller's promise.
    if pointer.is_null() { Ok(None) } else { unsafe { text(what, pointer) }.map(Some) }
}

/// Elements behind a pointer, which may be null if there are none.
///
/// # Safety
/// `pointer` is null or points to `count` initialized elements that live, unchanged, for `'a`.
pub(crate) unsafe fn slice<'a, T>(what: &str, pointer: *const T, count: usize) -> Result<&'a [T], Error> {
    let wrong = |why: &str| Err(Error::Request(format!("`{what}` {why}")));
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return wrong("is null");
    }
    if !pointer.is_aligned() {
        return wrong("is not aligned to its elements");
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return wrong("has more elements than memory can");
    }
    // SAFETY: not null, aligned, no larger than memory; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Frees what `Box::into_raw` gave out; null is nothing.
///
/// # Safety
/// `pointer` is null, or came from `Box::into_raw` and is freed once.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: the caller's promise. A panic while it is dropped ends here.
        drop(catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(pointer) }))));
    }
}

/// What went wrong, in one line. Lives as long as the error.
///
/// # Safety
/// `error` is null or an error of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_error_message(error: *const CcmlError) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { error.as_ref() }.map_or(std::ptr::null(), |e| e.message.as_ptr())
}

/// Stable name of the kind of error: `input`, `not-found`, `unsupported`, `model`, `io`, `argument`, `aborted`, …
///
/// # Safety
/// `error` is null or an error of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_error_kind(error: *const CcmlError) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { error.as_ref() }.map_or(std::ptr::null(), |e| e.kind.as_ptr())
}

fn optional(text: Option<&CString>) -> *const c_char {
    text.map_or(std::ptr::null(), |t| t.as_ptr())
}

/// File or folder that the error is about, or null.
///
/// # Safety
/// `error` is null or an error of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_error_file(error: *const CcmlError) -> *const c_char {
    // SAFETY: the caller's promise.
    optional(unsafe { error.as_ref() }.and_then(|e| e.file.as_ref()))
}

/// Input, output or state that the error is about, or null.
///
/// # Safety
/// `error` is null or an error of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_error_feature(error: *const CcmlError) -> *const c_char {
    // SAFETY: the caller's promise.
    optional(unsafe { error.as_ref() }.and_then(|e| e.feature.as_ref()))
}

/// What was expected, or null.
///
/// # Safety
/// `error` is null or an error of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_error_expected(error: *const CcmlError) -> *const c_char {
    // SAFETY: the caller's promise.
    optional(unsafe { error.as_ref() }.and_then(|e| e.expected.as_ref()))
}

/// What was found instead, or null.
///
/// # Safety
/// `error` is null or an error of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_error_found(error: *const CcmlError) -> *const c_char {
    // SAFETY: the caller's promise.
    optional(unsafe { error.as_ref() }.and_then(|e| e.found.as_ref()))
}

/// Frees an error; null is allowed.
///
/// # Safety
/// `error` is null or an error of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_error_free(error: *mut CcmlError) {
    // SAFETY: errors are given out by `border`, from a box.
    unsafe { free(error) };
}
