//! Optional files beside a model: text or JSON, with a size limit. `coreml_format::file` reads required ones.

use std::path::{Path, PathBuf};

use coreml_format::file::{FileCause, FileError, read_text};
use coreml_format::foreign;

use crate::error::{Error, Result};

/// Maximum size of a configuration (`config.json`, `tokenizer_config.json`, …) in bytes. Those with an added-tokens
/// table have up to about 2 MB.
pub(crate) const CONFIGURATION: u64 = 16 << 20;

/// Reads a text file, if it exists.
///
/// # Errors
/// [`Error::Io`] if it is not a regular file, exceeds `limit` bytes or is not UTF-8.
pub(crate) fn text_if_there(path: &Path, limit: u64) -> Result<Option<String>> {
    match read_text(path, limit) {
        Err(FileError { cause: FileCause::Io(e), .. }) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => Ok(Some(read?)),
    }
}

/// Reads a JSON configuration, if it exists.
///
/// # Errors
/// Same as [`text_if_there`]; [`Error::File`] if it is not JSON or is nested deeper than 128 levels.
pub(crate) fn json_if_there(path: &Path) -> Result<Option<serde_json::Value>> {
    let Some(text) = text_if_there(path, CONFIGURATION)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| not_json(path, text.as_bytes(), &e))
}

/// The error for a file that is not JSON: what it is instead, where its first bytes tell.
pub(crate) fn not_json(path: &Path, content: &[u8], error: &serde_json::Error) -> Error {
    let message = match foreign::recognise(content).filter(|_| !content.starts_with(b"{")) {
        Some(found) => format!("expected JSON, found {found}"),
        None => error.to_string(),
    };
    Error::File { path: path.to_owned(), message }
}

/// Whether a path has the extension of a Core ML model.
pub(crate) fn is_model(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    matches!(extension.as_str(), "mlpackage" | "mlmodelc" | "mlmodel")
}

/// The folder with the files beside a model: the path, or the folder of a model's file.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let folder = if is_model(path) { path.parent() } else { Some(path) };
    match folder {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_beside_a_model_or_in_its_folder() {
        for (path, wanted) in [("a/b.mlpackage", "a"), ("b.mlmodelc", "."), ("a/b", "a/b"), ("a/b.MLMODEL", "a")] {
            assert_eq!(beside(Path::new(path)), Path::new(wanted), "{path}");
        }
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a");
        assert!(text_if_there(&file, 4).expect("nothing is there").is_none());
        std::fs::write(&file, "1234").expect("written");
        assert_eq!(read_text(&file, 4).expect("as large as may be"), "1234");
        assert!(read_text(&file, 3).expect_err("too large").to_string().contains("at most 3 bytes"));
        assert!(read_text(folder.path(), 4).expect_err("a folder").to_string().contains("regular file"));
        std::fs::write(&file, [0xff]).expect("written");
        assert!(read_text(&file, 4).expect_err("no text").to_string().contains("UTF-8"));
        assert!(json_if_there(&file).is_err());
        let deep = "[".repeat(100_000);
        std::fs::write(&file, deep).expect("written");
        assert!(json_if_there(&file).expect_err("too deep").to_string().contains("recursion limit"));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused_without_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        for path in [pipe.as_path(), Path::new("/dev/zero")] {
            assert!(
                read_text(path, 4).expect_err("no file").to_string().contains("regular file"),
                "{}",
                path.display()
            );
        }
    }
}
