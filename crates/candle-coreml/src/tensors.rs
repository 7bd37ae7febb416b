//! Files of named tensors: safetensors, and NumPy's `.npz` and `.npy`; detected by content, not by name.
//!
//! Files are untrusted: only regular files are opened, headers are bounded, and no memory is allocated for elements
//! that a file does not have or that [`Limits`] do not allow.
//!
//! | elements | safetensors | NumPy | tensor |
//! |---|---|---|---|
//! | floats of 64, 32, 16 bits | `F64`, `F32`, `F16` | `f8`, `f4`, `f2` | `F64`, `F32`, `F16` |
//! | bfloat16 | `BF16` | – | `BF16` |
//! | signed integers of 64, 32, 16, 8 bits | `I64`, `I32`, `I16`, `I8` | `i8`, `i4`, `i2`, `i1` | `I64`, `I32`, `I16`, `I16` |
//! | unsigned integers of 64, 32, 16, 8 bits | `U64`, `U32`, `U16`, `U8` | `u8`, `u4`, `u2`, `u1` | `I64`, `U32`, `I32`, `U8` |
//! | booleans, bytes of 0 and 1 | `BOOL` | `b1` | `U8` |
//!
//! Values are preserved; 64-bit unsigned integers beyond `i64` are rejected, and so are all other types: floats of 8
//! bits and less, complex numbers, strings, objects, records. NumPy arrays may have either byte order and Fortran
//! order.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use coreml_format::file::{self, FileCause, FileError};
use coreml_format::foreign;
use indexmap::IndexMap;

mod element;
mod npy;
mod npz;
mod safetensors;

/// Limits on reading a file of tensors.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum size of all tensors in memory, in bytes; 4 GiB by default.
    pub bytes: u64,
    /// Maximum size of a header (tensor names, types and shapes), in bytes; 16 MiB by default.
    pub header: u64,
    /// Maximum number of tensors; 65,536 by default.
    pub tensors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 4 << 30, header: 16 << 20, tensors: 1 << 16 }
    }
}

/// A file of tensors that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct TensorsError {
    /// The file.
    pub path: PathBuf,
    /// The cause.
    pub cause: TensorsCause,
}

/// Cause of a [`TensorsError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorsCause {
    /// It can't be opened or read.
    #[error(transparent)]
    File(#[from] FileCause),
    /// The file does not match its format, or exceeds the limits.
    #[error("expected {expected}, found {found}")]
    Content {
        /// Expected content.
        expected: String,
        /// Found content.
        found: String,
    },
    /// The same for one tensor.
    #[error("`{name}`: expected {expected}, found {found}")]
    Tensor {
        /// Its name.
        name: String,
        /// Expected content.
        expected: String,
        /// Found content.
        found: String,
    },
}

impl TensorsCause {
    fn content(expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Content { expected: expected.into(), found: found.to_string() }
    }

    /// The same error for one tensor.
    fn of(self, name: &str) -> Self {
        match self {
            Self::Content { expected, found } => Self::Tensor { name: name.to_owned(), expected, found },
            other => other,
        }
    }
}

impl From<io::Error> for TensorsCause {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Self::content("more bytes", "the end of the file"),
            _ => Self::File(e.into()),
        }
    }
}

impl From<FileError> for TensorsError {
    fn from(e: FileError) -> Self {
        Self { path: e.path, cause: e.cause.into() }
    }
}

/// Reads all tensors of a file onto the CPU, by name. The tensor of a `.npy` file is named after the file's stem.
///
/// # Errors
/// [`TensorsError`] naming the file and the tensor, expected and found.
pub fn read(path: &Path, limits: &Limits) -> Result<IndexMap<String, Tensor>, TensorsError> {
    let mut source: BufReader<File> = BufReader::new(file::open(path)?);
    let only = path.file_stem().unwrap_or_default().to_string_lossy();
    read_from(&mut source, &only, limits).map_err(|cause| TensorsError { path: path.to_owned(), cause })
}

/// [`read`] from any source; `only` is the name of the tensor of a `.npy`.
///
/// # Errors
/// Same as [`read`].
pub fn read_from(
    source: &mut (impl Read + Seek),
    only: &str,
    limits: &Limits,
) -> Result<IndexMap<String, Tensor>, TensorsCause> {
    let size = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    let mut start = Vec::new();
    source.take(512).read_to_end(&mut start)?;
    source.rewind()?;
    let mut budget = Budget { limit: limits.bytes, left: limits.bytes };
    if start.starts_with(npy::MAGIC) {
        let tensor = npy::read(source, size, limits, &mut budget).map_err(|e| e.of(only))?;
        return Ok(IndexMap::from([(only.to_owned(), tensor)]));
    }
    if npz::MAGIC.iter().any(|magic| start.starts_with(magic)) {
        return npz::read(source, limits, &mut budget);
    }
    // The length of a header may begin like JSON.
    if let Some(found) = foreign::recognise(&start).filter(|_| !start.is_empty() && start[0] != b'{') {
        return Err(TensorsCause::content("a file of safetensors, .npz or .npy", found));
    }
    safetensors::read(source, size, limits, &mut budget)
}

/// Writes one tensor as NumPy's `.npy`; bfloat16 becomes F32.
///
/// # Errors
/// If NumPy has no such elements, or the target can't be written.
pub fn write_npy(target: &mut impl Write, tensor: &Tensor) -> Result<(), TensorsCause> {
    npy::write(target, tensor)
}

/// Writes tensors by name as NumPy's `.npz`; bfloat16 becomes F32.
///
/// # Errors
/// Same as [`write_npy`], with the name.
pub fn write_npz<'t>(
    target: &mut (impl Write + Seek),
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
) -> Result<(), TensorsCause> {
    npz::write(target, tensors)
}

/// Remaining budget of tensor memory, in bytes.
struct Budget {
    limit: u64,
    left: u64,
}

impl Budget {
    fn take(&mut self, bytes: u64) -> Result<(), TensorsCause> {
        let taken = self.limit - self.left;
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            let expected = format!("tensors of at most {} bytes together", self.limit);
            TensorsCause::content(expected, format!("{bytes} bytes more than {taken}"))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
