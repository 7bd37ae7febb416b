//! Weight files (`weights/weight.bin`, MILBlob storage version 2), mapped into memory.
//!
//! A file starts with a header of 64 bytes (`u32` count, `u32` version); every blob has a metadata
//! record of 64 bytes (`u32` sentinel, `u32` dtype, `u64` bytes, `u64` offset of the data, `u64`
//! padding bits of sub-byte types). Programs refer to the offset of the *record*. Everything is
//! little-endian. Reserved fields hold garbage in older files and are not looked at.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;

use crate::dtype::DataType;
use crate::file;

/// First field of every metadata record.
pub(crate) const SENTINEL: u32 = 0xDEAD_BEEF;
/// Version of the file form.
pub(crate) const VERSION: u32 = 2;
/// Size of the header and of a record, and the alignment of everything.
pub(crate) const ALIGN: usize = 64;

/// Where a program says that the elements of a constant lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// File name as written, such as `@model_path/weights/weight.bin`.
    pub file: Arc<str>,
    /// Offset of the blob's metadata record in the file.
    pub offset: u64,
}

/// Why a blob can't be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The file can't be opened or mapped.
    #[error("weight file {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file name leaves the model's folder, or there is no folder (a specification alone).
    #[error("weight file `{0}` is not inside the model")]
    Outside(String),
    /// The content is not what the format says.
    #[error("weight file {path}, offset {offset}: expected {expected}, found {found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Offset in bytes.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// The elements of one constant, mapped; cheap to clone.
#[derive(Clone)]
pub struct Blob {
    map: Arc<Mmap>,
    range: Range<usize>,
    dtype: DataType,
    elements: usize,
}

impl Blob {
    /// Element type that the record names.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Number of elements; padding bits of sub-byte types are not counted.
    pub fn elements(&self) -> usize {
        self.elements
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // The range was checked against the map when the blob was made.
        self.map.get(self.range.clone()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} × {} at {:?})", self.elements, self.dtype, self.range)
    }
}

/// The weight files of a model, mapped when first asked for.
#[derive(Debug, Clone, Default)]
pub struct WeightFiles {
    root: Option<PathBuf>,
    open: Arc<Mutex<HashMap<Arc<str>, Arc<Mmap>>>>,
}

impl WeightFiles {
    /// Weight files below this folder, which `@model_path` stands for; without a folder there are none.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self { root, open: Arc::default() }
    }

    /// Path of a weight file on disk.
    ///
    /// # Errors
    /// [`BlobError::Outside`] when the name would leave the folder.
    pub fn path(&self, file: &str) -> Result<PathBuf, BlobError> {
        let outside = || BlobError::Outside(file.to_owned());
        let relative = file.strip_prefix("@model_path").unwrap_or(file).trim_start_matches('/');
        let inside = Path::new(relative).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        match &self.root {
            Some(root) if inside && !relative.is_empty() => Ok(root.join(relative)),
            _ => Err(outside()),
        }
    }

    fn map(&self, file: &Arc<str>) -> Result<Arc<Mmap>, BlobError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = open.get(file) {
            return Ok(map.clone());
        }
        let path = self.path(file)?;
        let fail = |e: std::io::Error| BlobError::File { path: path.clone(), reason: e.to_string() };
        let handle = file::open(&path).map_err(|e| fail(e.cause.into()))?;
        if handle.metadata().map_err(fail)?.len() == 0 {
            return Err(format_error(&path, 0, "a header of 64 bytes", "an empty file"));
        }
        // SAFETY: the map is read-only. As with every mapped file, somebody who truncates or rewrites it
        // while it is mapped can fault the process or change weights; model files are not written in place.
        let map = Arc::new(unsafe { Mmap::map(&handle) }.map_err(fail)?);
        let version = u32_at(&map, 4);
        if version != Some(VERSION) {
            return Err(format_error(&path, 4, "version 2 of the weight format", format_args!("{version:?}")));
        }
        open.insert(file.clone(), map.clone());
        Ok(map)
    }

    /// The blob whose metadata record lies at this place.
    ///
    /// # Errors
    /// [`BlobError`] when the file can't be mapped or the record or its data is not inside it.
    pub fn resolve(&self, at: &BlobRef) -> Result<Blob, BlobError> {
        let map = self.map(&at.file)?;
        let path = self.path(&at.file)?;
        let bad = |expected: &str, found: String| format_error(&path, at.offset, expected, found);
        let size = map.len();
        let start = usize::try_from(at.offset)
            .ok()
            .filter(|s| s.checked_add(ALIGN).is_some_and(|end| end <= size))
            .ok_or_else(|| bad("a metadata record inside the file", format!("a file of {size} bytes")))?;
        let (Some(sentinel), Some(code), Some(bytes), Some(offset), Some(padding)) = (
            u32_at(&map, start),
            u32_at(&map, start + 4),
            u64_at(&map, start + 8),
            u64_at(&map, start + 16),
            u64_at(&map, start + 24),
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
            .ok_or_else(|| {
                bad("data inside the file", format!("{bytes} bytes at {offset} in a file of {size} bytes"))
            })?;
        let bits = dtype.bits().unwrap_or(8);
        let total = range.len().checked_mul(8).ok_or_else(|| bad("a sane size", bytes.to_string()))?;
        let padding = if bits < 8 { usize::try_from(padding).unwrap_or(usize::MAX) } else { 0 };
        let used = total
            .checked_sub(padding)
            .filter(|u| u % bits == 0 || bits < 8)
            .ok_or_else(|| bad("padding and size that fit the data type", format!("{padding} bits of {total}")))?;
        Ok(Blob { map, range, dtype, elements: used / bits })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One F16 blob of three elements and one U6 blob of five (30 bits, 2 bits of padding).
    fn sample() -> Vec<u8> {
        let mut b = vec![0u8; 320];
        b[0] = 2;
        b[4] = 2;
        let mut record = |at: usize, dtype: u32, bytes: u64, offset: u64, padding: u64| {
            b[at..at + 4].copy_from_slice(&SENTINEL.to_le_bytes());
            b[at + 4..at + 8].copy_from_slice(&dtype.to_le_bytes());
            b[at + 8..at + 16].copy_from_slice(&bytes.to_le_bytes());
            b[at + 16..at + 24].copy_from_slice(&offset.to_le_bytes());
            b[at + 24..at + 32].copy_from_slice(&padding.to_le_bytes());
        };
        record(64, 1, 6, 128, 77);
        record(192, 13, 4, 256, 2);
        b
    }

    fn files(bytes: &[u8]) -> (tempfile::TempDir, WeightFiles) {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(dir.path().join("weights")).expect("folder");
        std::fs::write(dir.path().join("weights/weight.bin"), bytes).expect("file");
        let files = WeightFiles::new(Some(dir.path().to_owned()));
        (dir, files)
    }

    fn at(offset: u64) -> BlobRef {
        BlobRef { file: "@model_path/weights/weight.bin".into(), offset }
    }

    #[test]
    fn records_give_type_and_element_count() {
        let (_dir, files) = files(&sample());
        let blob = files.resolve(&at(64)).expect("blob");
        assert_eq!((blob.dtype(), blob.elements(), blob.len()), (DataType::F16, 3, 6));
        let blob = files.resolve(&at(192)).expect("blob");
        assert_eq!((blob.dtype(), blob.elements(), blob.len()), (DataType::U6, 5, 4));
    }

    #[test]
    fn offsets_outside_the_file_and_wrong_records_are_errors() {
        let (_dir, files) = files(&sample());
        for (offset, part) in [(300, "inside the file"), (u64::MAX, "inside the file"), (128, "sentinel")] {
            let message = files.resolve(&at(offset)).expect_err("bad offset").to_string();
            assert!(message.contains(part), "{message}");
        }
        let outside = BlobRef { file: "@model_path/../secret".into(), offset: 64 };
        assert!(matches!(files.resolve(&outside), Err(BlobError::Outside(_))));
    }

    #[test]
    fn no_prefix_of_a_file_panics() {
        let whole = sample();
        for n in 0..whole.len() {
            let (_dir, files) = files(&whole[..n]);
            if n < 260 {
                assert!(files.resolve(&at(192)).is_err(), "{n} bytes");
            }
        }
    }
}
