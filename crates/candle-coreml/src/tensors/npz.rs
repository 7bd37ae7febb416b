//! NumPy's `.npz`: a zip archive of `.npy` files, each named after its array.

use std::io::{Read, Seek, Write};

use candle_core::Tensor;
use indexmap::IndexMap;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{Budget, Limits, TensorsCause, npy};

/// Signatures of an archive: a first entry or, if empty, the end of the central directory.
pub(super) const MAGIC: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

/// Maximum compression ratio of deflate is 1,032; entries that claim more are invalid.
const LARGEST_RATIO: u64 = 1032;
/// Size in bytes that an entry may claim at any compressed size.
const ALWAYS_ALLOWED: u64 = 4096;

pub(super) fn read(
    source: &mut (impl Read + Seek),
    limits: &Limits,
    budget: &mut Budget,
) -> Result<IndexMap<String, Tensor>, TensorsCause> {
    let bad = |e: zip::result::ZipError| TensorsCause::content("a zip archive of .npy files", e);
    let mut zip = ZipArchive::new(source).map_err(bad)?;
    if zip.len() > limits.tensors {
        let found = format!("{} entries", zip.len());
        return Err(TensorsCause::content(format!("at most {} tensors", limits.tensors), found));
    }
    let mut out = IndexMap::with_capacity(zip.len());
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(bad)?;
        let name = entry.name().map_err(bad)?.into_owned();
        let shown: String = name.chars().take(200).collect();
        let Some(array) = name.strip_suffix(".npy") else {
            return Err(TensorsCause::content("entries that end in .npy", format!("`{shown}`")));
        };
        let (size, packed) = (entry.size(), entry.compressed_size());
        if size > packed.saturating_mul(LARGEST_RATIO).max(ALWAYS_ALLOWED) {
            let expected = format!("at most {LARGEST_RATIO} times the bytes that it is packed into");
            return Err(TensorsCause::content(expected, format!("{size} bytes in {packed}")).of(&shown));
        }
        let tensor = npy::read(&mut entry, size, limits, budget).map_err(|e| e.of(&shown))?;
        // Reading to the end of the entry verifies its checksum.
        match entry.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(TensorsCause::content(format!("{size} bytes"), "more").of(&shown)),
            Err(e) => return Err(TensorsCause::content("an entry that is whole", e).of(&shown)),
        }
        if out.insert(array.to_owned(), tensor).is_some() {
            return Err(TensorsCause::content("one entry of a name", "two").of(&shown));
        }
    }
    Ok(out)
}

/// Writes an archive, stored as `numpy.savez` does.
///
/// # Errors
/// If NumPy has no such elements, or the target can't be written.
pub(super) fn write<'t>(
    target: &mut (impl Write + Seek),
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
) -> Result<(), TensorsCause> {
    let bad = |e: zip::result::ZipError| TensorsCause::File(std::io::Error::from(e).into());
    let mut zip = ZipWriter::new(target);
    for (name, tensor) in tensors {
        let large = tensor.elem_count().saturating_mul(8) >= u32::MAX as usize;
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
        zip.start_file(format!("{name}.npy"), options).map_err(bad)?;
        npy::write(&mut zip, tensor).map_err(|e| e.of(name))?;
    }
    zip.finish().map_err(bad)?;
    Ok(())
}
