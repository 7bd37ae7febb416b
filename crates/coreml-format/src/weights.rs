//! Weight files of a model: mapped from a folder, or in memory.
//!
//! Either way they are [`Bytes`], and a [`Blob`] is a range of them. Weights inside the specification, as in neural
//! networks, are ranges of its bytes already (see [`model_types`](crate::model_types)).

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use prost::bytes::Bytes;

use crate::blob::{self, Blob, BlobError, BlobRef};
use crate::file;

/// Weight files of a model; cheap to clone. Empty by default.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    source: Source,
    /// Weights of linked models by the prefix of their file names.
    mounted: Vec<(String, Weights)>,
    /// Open files, by the name used in programs.
    open: Arc<Mutex<HashMap<Arc<str>, Bytes>>>,
}

#[derive(Debug, Clone, Default)]
enum Source {
    #[default]
    None,
    Folder(PathBuf),
    /// By relative path.
    Memory(Arc<BTreeMap<String, Bytes>>),
}

/// Path relative to the model, without `@model_path/`.
fn relative(file: &str) -> &str {
    file.strip_prefix("@model_path").unwrap_or(file).trim_start_matches('/')
}

impl Weights {
    /// Files in this folder, which is `@model_path`. They are mapped on first use.
    pub fn folder(root: PathBuf) -> Self {
        Self { source: Source::Folder(root), ..Self::default() }
    }

    /// Files in memory, by the path in the specification, such as `weights/weight.bin`; `@model_path/` is optional.
    pub fn memory(files: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        let files = files.into_iter().map(|(name, bytes)| (relative(&name).to_owned(), bytes));
        Self { source: Source::Memory(Arc::new(files.collect())), ..Self::default() }
    }

    /// Adds the weights of another model; their file names begin with the returned prefix.
    pub(crate) fn mount(&mut self, other: Weights) -> String {
        let prefix = format!("@linked_{}/", self.mounted.len());
        self.mounted.push((prefix.clone(), other));
        prefix
    }

    /// Returns the blob whose metadata record is at this position.
    ///
    /// # Errors
    /// [`BlobError`] if there is no such file, mapping it fails, or the record or its data is out of bounds.
    pub fn resolve(&self, at: &BlobRef) -> Result<Blob, BlobError> {
        for (prefix, linked) in &self.mounted {
            if let Some(file) = at.file.strip_prefix(prefix.as_str()) {
                return linked.resolve(&BlobRef { file: file.into(), offset: at.offset });
            }
        }
        let (path, bytes) = self.file(&at.file)?;
        blob::blob(&bytes, &path, at.offset)
    }

    /// The file and its path for errors.
    fn file(&self, name: &Arc<str>) -> Result<(PathBuf, Bytes), BlobError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(name)?;
        if let Some(bytes) = open.get(name) {
            return Ok((path, bytes.clone()));
        }
        let bytes = match &self.source {
            Source::None | Source::Folder(_) => file::map(&path, u64::MAX).map_err(|e| {
                let reason = std::io::Error::from(e.cause).to_string();
                BlobError::File { path: path.clone(), reason }
            })?,
            Source::Memory(files) => files
                .get(relative(name))
                .cloned()
                .ok_or_else(|| BlobError::Missing { file: name.to_string(), given: files.keys().cloned().collect() })?,
        };
        if let Some(found) = crate::foreign::recognise(&bytes) {
            return Err(BlobError::File { path, reason: format!("expected weights, found {found}") });
        }
        blob::check_header(&bytes, &path)?;
        open.insert(name.clone(), bytes.clone());
        Ok((path, bytes))
    }

    /// Path of a file that programs name: on disk, or as given in memory.
    ///
    /// # Errors
    /// [`BlobError::Outside`] if it is outside of the model.
    pub fn file_path(&self, name: &str) -> Result<PathBuf, BlobError> {
        self.path(name)
    }

    fn path(&self, name: &str) -> Result<PathBuf, BlobError> {
        let relative = relative(name);
        let inside = Path::new(relative).components().all(|c| matches!(c, Component::Normal(_)));
        match &self.source {
            Source::Folder(root) if inside && !relative.is_empty() => Ok(root.join(relative)),
            Source::Memory(_) => Ok(relative.into()),
            _ => Err(BlobError::Outside(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::SENTINEL;
    use crate::dtype::DataType;

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

    fn files(bytes: &[u8]) -> (tempfile::TempDir, Weights) {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(dir.path().join("weights")).expect("folder");
        std::fs::write(dir.path().join("weights/weight.bin"), bytes).expect("file");
        let files = Weights::folder(dir.path().to_owned());
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

    #[test]
    fn files_in_memory_are_read_as_those_in_a_folder() {
        let (_dir, folder) = files(&sample());
        for name in ["@model_path/weights/weight.bin", "weights/weight.bin", "/weights/weight.bin"] {
            let memory = Weights::memory([(name.to_owned(), Bytes::from(sample()))]);
            for offset in [64, 192] {
                let (a, b) = (folder.resolve(&at(offset)).expect("blob"), memory.resolve(&at(offset)).expect("blob"));
                assert_eq!((a.dtype(), a.elements(), &*a), (b.dtype(), b.elements(), &*b));
            }
        }
        let cut = Weights::memory([("weights/weight.bin".to_owned(), Bytes::from(sample()).slice(..200))]);
        let message = cut.resolve(&at(192)).expect_err("cut").to_string();
        assert!(message.contains("weights/weight.bin") && message.contains("a file of 200 bytes"), "{message}");
        let other = Weights::memory([("other.bin".to_owned(), Bytes::from(sample()))]);
        let message = other.resolve(&at(64)).expect_err("not there").to_string();
        assert!(message.contains("weight.bin") && message.contains("other.bin"), "{message}");
        assert!(matches!(Weights::default().resolve(&at(64)), Err(BlobError::Outside(_))));
    }
}
