//! Files of named tensors: safetensors, and NumPy's `.npz` and `.npy`; which of them is told by content, not by name.
//!
//! Files may come from strangers: only regular files are opened, headers are bounded, and no memory is taken for elements
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
//! Values stay as they are; unsigned integers of 64 bits that `i64` does not have are refused, and so are all other types:
//! the floats of 8 bits and less, complex numbers, strings, objects, records. Arrays of NumPy may be in either byte order and
//! in Fortran's order of elements.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use coreml_format::file::{self, FileCause, FileError};
use indexmap::IndexMap;

mod element;
mod npy;
mod npz;
mod safetensors;

/// What a file of tensors may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all tensors together, in memory; 4 GiB by default.
    pub bytes: u64,
    /// Bytes of a header, which names tensors, types and shapes; 16 MiB by default.
    pub header: u64,
    /// Number of tensors; 65,536 by default.
    pub tensors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 4 << 30, header: 16 << 20, tensors: 1 << 16 }
    }
}

/// Why a file of tensors can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct TensorsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: TensorsCause,
}

/// What is wrong with a file of tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorsCause {
    /// It can't be opened or read.
    #[error(transparent)]
    File(#[from] FileCause),
    /// The file is not what its format says, or goes beyond the limits.
    #[error("expected {expected}, found {found}")]
    Content {
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// So is one tensor.
    #[error("`{name}`: expected {expected}, found {found}")]
    Tensor {
        /// Its name.
        name: String,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl TensorsCause {
    fn content(expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Content { expected: expected.into(), found: found.to_string() }
    }

    /// The same about one tensor.
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

/// Reads all tensors of a file, by name, onto the CPU. The one of a `.npy` file has the name of the file, without its ending.
///
/// # Errors
/// [`TensorsError`] naming the file and the tensor, what was expected and what was found.
pub fn read(path: &Path, limits: &Limits) -> Result<IndexMap<String, Tensor>, TensorsError> {
    let mut source: BufReader<File> = BufReader::new(file::open(path)?);
    let only = path.file_stem().unwrap_or_default().to_string_lossy();
    read_from(&mut source, &only, limits).map_err(|cause| TensorsError { path: path.to_owned(), cause })
}

/// [`read`] of what is not a file; `only` is the name of the tensor of a `.npy`.
///
/// # Errors
/// As [`read`].
pub fn read_from(
    source: &mut (impl Read + Seek),
    only: &str,
    limits: &Limits,
) -> Result<IndexMap<String, Tensor>, TensorsCause> {
    let size = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    let mut start = Vec::new();
    source.take(npy::MAGIC.len() as u64).read_to_end(&mut start)?;
    source.rewind()?;
    let mut budget = Budget { limit: limits.bytes, left: limits.bytes };
    if start == npy::MAGIC {
        let tensor = npy::read(source, size, limits, &mut budget).map_err(|e| e.of(only))?;
        return Ok(IndexMap::from([(only.to_owned(), tensor)]));
    }
    if npz::MAGIC.iter().any(|magic| start.starts_with(magic)) {
        return npz::read(source, limits, &mut budget);
    }
    safetensors::read(source, size, limits, &mut budget)
}

/// Bytes that tensors may still take.
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
