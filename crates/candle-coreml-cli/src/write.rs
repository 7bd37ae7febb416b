//! Atomic output: writes to a temporary file beside the target, then renames it; or to standard output.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufWriter, ErrorKind, Write};
use std::ops::Deref;
use std::path::Path;

use candle_core::{CpuStorage, Layout, Storage, Tensor};
use candle_coreml::tensors as files;
use safetensors::View;
use tempfile::NamedTempFile;

use crate::CommandResult;

/// Writes bytes.
pub(crate) fn bytes(path: &Path, content: &[u8]) -> CommandResult {
    whole(path, |file| file.write_all(content).map_err(|e| e.to_string()))
}

/// Writes tensors in the safetensors format, without copying them.
pub(crate) fn tensors(path: &Path, tensors: &HashMap<String, Tensor>) -> CommandResult {
    let all = tensors.iter().map(|(name, tensor)| (name.as_str(), in_place(tensor)));
    whole(path, |file| safetensors::serialize_to_file(all, None, file.path()).map_err(|e| e.to_string()))
}

/// Writes one tensor as NumPy's `.npy`.
pub(crate) fn npy(path: &Path, tensor: &Tensor) -> CommandResult {
    whole(path, |file| {
        let mut out = BufWriter::new(file);
        files::write_npy(&mut out, tensor).map_err(|e| e.to_string())?;
        out.flush().map_err(|e| e.to_string())
    })
}

/// Writes tensors as NumPy's `.npz`.
pub(crate) fn npz(path: &Path, all: &[(String, Tensor)]) -> CommandResult {
    whole(path, |file| {
        let mut out = BufWriter::new(file);
        let named = all.iter().map(|(name, tensor)| (name.as_str(), tensor));
        files::write_npz(&mut out, named).map_err(|e| e.to_string())?;
        out.flush().map_err(|e| e.to_string())
    })
}

/// Writes a temporary file beside `path` and renames it when complete.
fn whole(path: &Path, write: impl FnOnce(&mut NamedTempFile) -> Result<(), String>) -> CommandResult {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |e: String| format!("{}: {e}", path.display());
    let mut builder = tempfile::Builder::new();
    // Temporary files are private to the owner; results follow the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(|e| fail(e.to_string()))?;
    write(&mut file).map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error.to_string()))?;
    Ok(())
}

/// A tensor whose elements are read in place from CPU memory, without Candle's copy.
struct InPlace<'a, S> {
    tensor: &'a Tensor,
    storage: S,
    layout: &'a Layout,
}

fn in_place(tensor: &Tensor) -> InPlace<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    InPlace { tensor, storage, layout }
}

impl<S: Deref<Target = Storage>> InPlace<'_, S> {
    /// `None` if the elements are not contiguous, not in CPU memory, or of a type that is rare in results.
    fn bytes(&self) -> Option<&[u8]> {
        let Storage::Cpu(storage) = &*self.storage else { return None };
        let (start, end) = self.layout.contiguous_offsets()?;
        match storage {
            CpuStorage::U8(all) => all.get(start..end),
            CpuStorage::U32(all) => all.get(start..end).map(bytemuck::cast_slice),
            CpuStorage::I32(all) => all.get(start..end).map(bytemuck::cast_slice),
            CpuStorage::I64(all) => all.get(start..end).map(bytemuck::cast_slice),
            CpuStorage::F16(all) => all.get(start..end).map(bytemuck::cast_slice),
            CpuStorage::F32(all) => all.get(start..end).map(bytemuck::cast_slice),
            _ => None,
        }
    }
}

impl<S: Deref<Target = Storage>> View for InPlace<'_, S> {
    fn dtype(&self) -> safetensors::Dtype {
        View::dtype(&self.tensor)
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // safetensors is little-endian.
        match self.bytes().filter(|_| cfg!(target_endian = "little")) {
            Some(bytes) => Cow::Borrowed(bytes),
            None => Cow::Owned(View::data(&self.tensor).into_owned()),
        }
    }

    fn data_len(&self) -> usize {
        self.tensor.elem_count() * self.tensor.dtype().size_in_bytes()
    }
}

/// Prints text on standard output.
///
/// # Errors
/// If it can't be written; a reader that stops early (`| head`) ends the command quietly ([`is_closed`]).
pub(crate) fn text(content: &str) -> CommandResult {
    let mut out = std::io::stdout().lock();
    match out.write_all(content.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(e.into()),
        Err(e) => Err(format!("standard output: {e}").into()),
    }
}

/// Prints a line on standard error; if nobody can read it, it is lost.
pub(crate) fn note(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Returns true if the reader of standard output has left.
pub(crate) fn is_closed(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// [`text`] of a formatted line.
macro_rules! out {
    ($($line:tt)*) => {
        $crate::write::text(&format!("{}\n", format_args!($($line)*)))
    };
}

/// [`note`] of a formatted line.
macro_rules! note {
    ($($line:tt)*) => {
        $crate::write::note(format_args!($($line)*))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn tensors_of_every_layout_read_back() {
        let x = Tensor::arange(0f32, 12.0, &Device::Cpu).and_then(|t| t.reshape((3, 4))).expect("a tensor");
        let types = [DType::U8, DType::U32, DType::I64, DType::F16, DType::BF16, DType::F64];
        let mut all: HashMap<String, Tensor> =
            types.iter().map(|&d| (format!("{d:?}"), x.to_dtype(d).expect("a cast"))).collect();
        all.insert("rows".to_owned(), x.narrow(0, 1, 2).expect("rows"));
        all.insert("turned".to_owned(), x.t().expect("turned"));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.safetensors");
        tensors(&path, &all).expect("written");
        let read = candle_core::safetensors::load(&path, &Device::Cpu).expect("it reads back");
        assert_eq!(read.len(), all.len());
        for (name, tensor) in &all {
            let numbers = |t: &Tensor| t.to_dtype(DType::F64).and_then(|t| t.to_vec2::<f64>()).expect("numbers");
            assert_eq!((read[name].dtype(), numbers(&read[name])), (tensor.dtype(), numbers(tensor)), "{name}");
        }
        assert!(tensors(&folder.path().join("absent/out"), &all).is_err());
    }
}
