//! Zip archives with models, unpacked into memory. Archives are untrusted.

use std::io::{Cursor, Read};

use coreml_format::model_types::Bytes;
use zip::ZipArchive;

use crate::error::{Error, Result};

/// Maximum number of entries of an archive.
pub(crate) const MOST_ENTRIES: usize = 10_000;
/// Maximum ratio of content to archive size: deflate reaches about 1000, models far less.
pub(crate) const LARGEST_RATIO: u64 = 200;
/// Content size allowed for any archive, however small.
pub(crate) const ALWAYS_ALLOWED: u64 = 1 << 20;

/// macOS metadata, not part of the content.
pub(crate) fn is_litter(name: &str) -> bool {
    name.starts_with("__MACOSX/") || name.rsplit('/').next() == Some(".DS_Store")
}

/// Returns true if bytes begin as those of a zip archive do.
pub fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// Unpacks a zip archive: names and contents of its files, in its order. `name` is that of the archive, for errors.
///
/// [`MemoryFolder::mount`](coreml_format::memory::MemoryFolder::mount) checks the names.
///
/// # Errors
/// [`Error::File`] if it is no zip archive or damaged, if entries are links or encrypted, if it has more than 10,000, or if
/// they have more bytes than they declare, than 200 times the archive, or than memory holds.
pub fn unzip(name: &str, bytes: &[u8]) -> Result<Vec<(String, Bytes)>> {
    let fail = |message: String| Error::File { path: name.into(), message };
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| fail(format!("not a zip archive: {e}")))?;
    if zip.len() > MOST_ENTRIES {
        return Err(fail(format!("{} entries; at most {MOST_ENTRIES} are accepted", zip.len())));
    }
    let limit = (bytes.len() as u64).saturating_mul(LARGEST_RATIO).max(ALWAYS_ALLOWED);
    let (mut files, mut total) = (Vec::new(), 0u64);
    for index in 0..zip.len() {
        let broken = |e: &dyn std::fmt::Display| fail(format!("entry {index}: {e}"));
        let mut entry = zip.by_index(index).map_err(|e| broken(&e))?;
        let name = entry.name().map_err(|e| broken(&e))?.into_owned();
        if entry.is_dir() || is_litter(&name) {
            continue;
        }
        // File type of a Unix mode, in the upper bits: 0o100000 is a regular file.
        let kind = entry.unix_mode().map_or(0, |m| m & 0o170_000);
        if entry.is_symlink() || !matches!(kind, 0 | 0o100_000) {
            return Err(fail(format!("`{name}` is a link or a special file")));
        }
        let size = entry.size();
        total = total.saturating_add(size);
        if total > limit {
            let held = bytes.len();
            return Err(fail(format!("it declares {total} bytes, but holds {held}: more than {LARGEST_RATIO} times")));
        }
        let mut content = Vec::new();
        let room = usize::try_from(size).map(|n| content.try_reserve_exact(n));
        if !matches!(room, Ok(Ok(()))) {
            return Err(fail(format!("no memory for the {size} bytes of `{name}`")));
        }
        entry.by_ref().take(size.saturating_add(1)).read_to_end(&mut content).map_err(|e| broken(&e))?;
        if content.len() as u64 != size {
            return Err(fail(format!("`{name}` does not have the {size} bytes that it declares")));
        }
        files.push((name, content.into()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default()).expect("an entry");
            zip.write_all(bytes).expect("written");
        }
        zip.finish().expect("finished").into_inner()
    }

    #[test]
    fn files_come_out_without_litter() {
        let bytes =
            archive(&[("m.mlpackage/a", b"1"), ("__MACOSX/m.mlpackage/._a", b"2"), ("m.mlpackage/.DS_Store", b"3")]);
        let files = unzip("m.zip", &bytes).expect("unpacked");
        assert_eq!(files, [("m.mlpackage/a".to_owned(), Bytes::from_static(b"1"))]);
        assert!(is_zip(&bytes) && !is_zip(b"PK"));
    }

    #[test]
    fn what_is_damaged_or_too_large_is_refused() {
        let whole = archive(&[("a", &[7; 100])]);
        for n in 0..whole.len() {
            assert!(unzip("m.zip", &whole[..n]).is_err(), "{n} bytes");
        }
        let zeros = archive(&[("a", &vec![0; 8 << 20])]);
        let error = unzip("m.zip", &zeros).expect_err("a bomb").to_string();
        assert!(error.contains("m.zip") && error.contains("more than 200 times"), "{error}");
    }
}
