//! The source that the compiler gets: the caller's, or a copy without symbolic links.
//!
//! Download caches link into packages: in Hugging Face's, `weights/weight.bin` is a link to `../../../../../blobs/…`.
//! Core ML's compiler copies such a link into the compiled model, where it points nowhere, and loading fails with
//! "Error parsing MIL model" (code 110; ml-stable-diffusion #5, huggingface_hub #1240). On APFS a copy is a clone and
//! takes no space.

use std::path::{Path, PathBuf};

use super::CacheError;
use super::folders::{children, copy};

/// The specification of a package, where it stands if the manifest is missing.
const SPECIFICATION: &str = "Data/com.apple.CoreML/model.mlmodel";

/// The path to compile, and whether it lies in `folder`, a new copy.
///
/// A package without `Manifest.json`, which Core ML refuses, is compiled by its specification.
///
/// # Errors
/// If a link points nowhere, or the copy cannot be written.
pub(super) fn plain(source: &Path, folder: &Path) -> Result<(PathBuf, bool), CacheError> {
    let copied = has_links(source, 0)?;
    let mut plain = source.to_owned();
    if copied {
        std::fs::create_dir(folder).map_err(|e| CacheError::io(folder, e))?;
        plain = folder.join(source.file_name().unwrap_or("model".as_ref()));
        copy(source, &plain, 0)?;
    }
    let specification = plain.join(SPECIFICATION);
    if plain.is_dir() && !plain.join("Manifest.json").exists() && specification.is_file() {
        plain = specification;
    }
    Ok((plain, copied))
}

/// Returns true if a path is a symbolic link or has one below.
fn has_links(path: &Path, depth: usize) -> Result<bool, CacheError> {
    let kind = std::fs::symlink_metadata(path).map_err(|e| CacheError::io(path, e))?;
    if kind.is_symlink() {
        return Ok(true);
    }
    if kind.is_dir() {
        for child in children(path, depth)? {
            if has_links(&child, depth + 1)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
