//! Weight file contents (`weights/weight.bin`, MILBlob storage version 2). [`weights`](crate::weights) opens the files.
//!
//! A file starts with a header of 64 bytes (`u32` count, `u32` version); every blob has a metadata record of 64 bytes
//! (`u32` sentinel, `u32` dtype, `u64` bytes, `u64` offset of the data, `u64` padding bits of sub-byte types). Programs
//! refer to the offset of the *record*. Everything is little-endian. Reserved fields contain garbage in older files and
//! are ignored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::bytes::Bytes;

use crate::dtype::DataType;

/// First field of every metadata record.
pub(crate) const SENTINEL: u32 = 0xDEAD_BEEF;
/// File format version.
pub(crate) const VERSION: u32 = 2;
/// Size of the header and of a record, and the alignment of both and of the data.
pub(crate) const ALIGN: usize = 64;

/// Reference from a program to the elements of a constant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// File name as written, such as `@model_path/weights/weight.bin`.
    pub file: Arc<str>,
    /// Offset of the blob's metadata record in the file.
    pub offset: u64,
}

/// Reason why a blob cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The file can't be opened or mapped.
    #[error("weight file {path}: {reason}")]
    File {
        /// File path.
        path: PathBuf,
        /// System error.
        reason: String,
    },
    /// The file name points outside the model's folder, or there is no folder (a bare specification).
    #[error("weight file `{0}` is not inside the model")]
    Outside(String),
    /// An in-memory model lacks this file.
    #[error("missing weight file `{file}`; given: {}", given.join(", "))]
    Missing {
        /// File name used by the program.
        file: String,
        /// Names of the given files.
        given: Vec<String>,
    },
    /// The content violates the format.
    #[error("weight file {path}, offset {offset}: expected {expected}, found {found}")]
    Format {
        /// File path.
        path: PathBuf,
        /// Offset in bytes.
        offset: u64,
        /// Expected content.
        expected: String,
        /// Actual content.
        found: String,
    },
}

/// Elements of one constant: a range of a weight file, not a copy; cheap to clone.
#[derive(Clone)]
pub struct Blob {
    bytes: Bytes,
    dtype: DataType,
    elements: usize,
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        (self.dtype, self.elements) == (other.dtype, other.elements) && self.bytes == other.bytes
    }
}

impl Blob {
    /// Elements of a buffer, which may be a range of a mapped file; `None` if it does not have the length of so many.
    pub fn new(bytes: Bytes, dtype: DataType, elements: usize) -> Option<Self> {
        (dtype.packed_len(elements) == Some(bytes.len())).then_some(Self { bytes, dtype, elements })
    }

    /// Element type from the record.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Number of elements, without padding bits of sub-byte types.
    pub fn elements(&self) -> usize {
        self.elements
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} × {})", self.elements, self.dtype)
    }
}

/// Returns the blob of a weight file whose metadata record is at `offset`.
///
/// # Errors
/// [`BlobError::Format`] if the file has another version, or the record or its data is out of bounds. `path` names the
/// file.
pub(crate) fn blob(file: &Bytes, path: &Path, offset: u64) -> Result<Blob, BlobError> {
    let bad = |expected: &str, found: String| format_error(path, offset, expected, found);
    let size = file.len();
    let start = usize::try_from(offset)
        .ok()
        .filter(|s| s.checked_add(ALIGN).is_some_and(|end| end <= size))
        .ok_or_else(|| bad("a metadata record inside the file", format!("a file of {size} bytes")))?;
    let (Some(sentinel), Some(code), Some(bytes), Some(offset), Some(padding)) = (
        u32_at(file, start),
        u32_at(file, start + 4),
        u64_at(file, start + 8),
        u64_at(file, start + 16),
        u64_at(file, start + 24),
    ) else {
        return Err(bad("a metadata record", "the end of the file".to_owned()));
    };
    if sentinel != SENTINEL {
        return Err(bad("the sentinel 0xdeadbeef", format!("{sentinel:#x}")));
    }
    let dtype = DataType::from_blob_code(code).ok_or_else(|| bad("a known data type", format!("code {code}")))?;
    let range = usize::try_from(offset)
        .ok()
        .zip(usize::try_from(bytes).ok())
        .and_then(|(o, n)| Some(o..o.checked_add(n)?))
        .filter(|r| r.end <= size)
        .ok_or_else(|| bad("data inside the file", format!("{bytes} bytes at {offset} in a file of {size} bytes")))?;
    let bits = dtype.bits().unwrap_or(8);
    let total = range.len().checked_mul(8).ok_or_else(|| bad("a sane size", bytes.to_string()))?;
    let padding = if bits < 8 { usize::try_from(padding).unwrap_or(usize::MAX) } else { 0 };
    let used = total
        .checked_sub(padding)
        .filter(|u| u % bits == 0 || bits < 8)
        .ok_or_else(|| bad("padding and size that fit the data type", format!("{padding} bits of {total}")))?;
    Ok(Blob { bytes: file.slice(range), dtype, elements: used / bits })
}

/// Checks the header of a weight file. `path` names it.
///
/// # Errors
/// [`BlobError::Format`] if it is empty or has another version.
pub(crate) fn check_header(file: &Bytes, path: &Path) -> Result<(), BlobError> {
    if file.is_empty() {
        return Err(format_error(path, 0, "a header of 64 bytes", "an empty file"));
    }
    match u32_at(file, 4) {
        Some(VERSION) => Ok(()),
        version => Err(format_error(path, 4, "version 2 of the weight format", format_args!("{version:?}"))),
    }
}

fn format_error(path: &Path, offset: u64, expected: &str, found: impl std::fmt::Display) -> BlobError {
    BlobError::Format { path: path.to_owned(), offset, expected: expected.to_owned(), found: found.to_string() }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
