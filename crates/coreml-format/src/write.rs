//! Writes packages: streams the weights to disk, then writes the specification and the manifest.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::blob::{ALIGN, BlobRef, SENTINEL, VERSION};
use crate::description::ModelDescription;
use crate::dtype::DataType;
use crate::program::Program;
use crate::spec;

/// A package being written, in a hidden folder beside its path. It appears under its path when it is complete, by
/// [`PackageWriter::finish`]; dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct PackageWriter {
    root: PathBuf,
    /// Folder that becomes `root`.
    partial: PathBuf,
    weights: BufWriter<File>,
    /// Bytes written to the weight file.
    length: u64,
    count: u32,
}

const AUTHOR: &str = "com.apple.CoreML";
const WEIGHT_FILE: &str = "@model_path/weights/weight.bin";

fn invalid(text: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, text)
}

impl PackageWriter {
    /// Starts a package at a path that does not exist yet.
    ///
    /// # Errors
    /// If the folder exists or cannot be created.
    pub fn create(root: &Path) -> std::io::Result<Self> {
        if root.exists() {
            let text = format!("{} exists already", root.display());
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, text));
        }
        let name = root.file_name().ok_or_else(|| invalid(format!("{} names no file", root.display())))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", uuid::Uuid::new_v4().simple()));
        let partial = root.with_file_name(hidden);
        let folder = partial.join("Data").join(AUTHOR).join("weights");
        std::fs::create_dir_all(&folder)?;
        let opened = File::create(folder.join("weight.bin")).and_then(|file| {
            let mut weights = BufWriter::with_capacity(1 << 20, file);
            weights.write_all(&[0; ALIGN]).map(|()| weights)
        });
        match opened {
            Ok(weights) => Ok(Self { root: root.to_owned(), partial, weights, length: ALIGN as u64, count: 0 }),
            Err(e) => {
                // The error counts, not what cleaning up says.
                let _ = std::fs::remove_dir_all(&partial);
                Err(e)
            }
        }
    }

    /// Lets the package appear under another path, in the same file system.
    pub fn move_to(&mut self, root: &Path) {
        self.root = root.to_owned();
    }

    fn pad(&mut self) -> std::io::Result<()> {
        let to = self.length.next_multiple_of(ALIGN as u64);
        self.weights.write_all(&[0u8; ALIGN][..(to - self.length) as usize])?;
        self.length = to;
        Ok(())
    }

    /// Appends the packed elements of one constant, in pieces with the total length of `elements` elements of this
    /// type.
    ///
    /// # Errors
    /// If writing fails, the type cannot be stored, or the total length differs.
    pub fn blob<P: AsRef<[u8]>>(
        &mut self,
        dtype: DataType,
        elements: usize,
        pieces: impl IntoIterator<Item = P>,
    ) -> std::io::Result<BlobRef> {
        let (Some(code), Some(bytes)) = (dtype.blob_code(), dtype.packed_len(elements)) else {
            return Err(invalid(format!("{elements} elements of type {dtype} can't be stored in a weight file")));
        };
        self.pad()?;
        let offset = self.length;
        let padding = bytes as u64 * 8 - elements as u64 * dtype.bits().unwrap_or(8) as u64;
        let mut record = [0u8; ALIGN];
        record[..4].copy_from_slice(&SENTINEL.to_le_bytes());
        record[4..8].copy_from_slice(&code.to_le_bytes());
        record[8..16].copy_from_slice(&(bytes as u64).to_le_bytes());
        record[16..24].copy_from_slice(&(offset + ALIGN as u64).to_le_bytes());
        record[24..32].copy_from_slice(&padding.to_le_bytes());
        crate::task::check()?;
        self.weights.write_all(&record)?;
        let mut written = 0;
        for piece in pieces {
            let piece = piece.as_ref();
            crate::task::check()?;
            self.weights.write_all(piece)?;
            written += piece.len();
        }
        if written != bytes {
            return Err(invalid(format!("{elements} elements of type {dtype} take {bytes} bytes, got {written}")));
        }
        self.length += (ALIGN + bytes) as u64;
        self.count += 1;
        Ok(BlobRef { file: Arc::from(WEIGHT_FILE), offset })
    }

    /// Writes header, specification and manifest, and gives the package its name.
    ///
    /// # Errors
    /// If writing fails, or the path exists by now.
    pub fn finish(self, description: &ModelDescription, program: &Program) -> std::io::Result<()> {
        self.finish_encoded(&spec::encode(description, program))
    }

    /// [`PackageWriter::finish`] with an encoded specification.
    ///
    /// # Errors
    /// As [`PackageWriter::finish`].
    pub fn finish_encoded(mut self, specification: &[u8]) -> std::io::Result<()> {
        self.pad()?;
        self.weights.seek(SeekFrom::Start(0))?;
        self.weights.write_all(&self.count.to_le_bytes())?;
        self.weights.write_all(&VERSION.to_le_bytes())?;
        self.weights.flush()?;
        self.weights.get_ref().sync_all()?;
        if self.count == 0 {
            std::fs::remove_dir_all(self.content().join("weights"))?;
        }
        self.name(specification)
    }

    /// Finishes the package with an encoded specification and the files beside the one that it replaces, such as
    /// `weights/weight.bin`, as they are.
    ///
    /// # Errors
    /// As [`PackageWriter::finish`], and if weights were written to it before.
    pub fn finish_beside(self, specification: &[u8], replaced: &Path) -> std::io::Result<()> {
        if self.count > 0 {
            return Err(invalid("weights were written, and others are to be copied".to_owned()));
        }
        std::fs::remove_dir_all(self.content().join("weights"))?;
        let folder = replaced.parent().ok_or_else(|| invalid(format!("{} has no folder", replaced.display())))?;
        copy(folder, &self.content(), Some(replaced), 0)?;
        self.name(specification)
    }

    /// Finishes the package with an encoded specification and copies of these files: path beside the specification,
    /// such as `weights/weight.bin`, and file.
    ///
    /// # Errors
    /// As [`PackageWriter::finish`], and if weights were written to it before, or a path leads out of the package.
    pub fn finish_with(self, specification: &[u8], files: &[(String, PathBuf)]) -> std::io::Result<()> {
        if self.count > 0 {
            return Err(invalid("weights were written, and others are to be copied".to_owned()));
        }
        std::fs::remove_dir_all(self.content().join("weights"))?;
        for (relative, file) in files {
            if !Path::new(relative).components().all(|c| matches!(c, std::path::Component::Normal(_))) {
                return Err(invalid(format!("`{relative}` leads out of the package")));
            }
            let target = self.content().join(relative);
            target.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            crate::task::copy(&mut File::open(file)?, &mut File::create(&target)?)?;
        }
        self.name(specification)
    }

    /// Folder of the specification.
    fn content(&self) -> PathBuf {
        self.partial.join("Data").join(AUTHOR)
    }

    /// Writes specification and manifest, and gives the package its name.
    fn name(self, specification: &[u8]) -> std::io::Result<()> {
        let folder = self.content();
        std::fs::write(folder.join("model.mlmodel"), specification)?;
        let (model, weights) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());
        let item = |name: &str, path: &str, text: &str| serde_json::json!({"author": AUTHOR, "description": text, "name": name, "path": format!("{AUTHOR}/{path}")});
        let mut entries = serde_json::Map::new();
        entries.insert(model.clone(), item("model.mlmodel", "model.mlmodel", "CoreML Model Specification"));
        if folder.join("weights").exists() {
            entries.insert(weights, item("weights", "weights", "CoreML Model Weights"));
        }
        let manifest = serde_json::json!({
            "fileFormatVersion": "1.0.0",
            "itemInfoEntries": entries,
            "rootModelIdentifier": model,
        });
        std::fs::write(self.partial.join("Manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
        if self.root.exists() {
            let text = format!("{} exists already", self.root.display());
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, text));
        }
        std::fs::rename(&self.partial, &self.root)
    }
}

/// Copies the regular files of a folder, except one; folders at most a few levels deep.
fn copy(from: &Path, to: &Path, except: Option<&Path>, depth: usize) -> std::io::Result<()> {
    if depth > 4 {
        return Err(invalid(format!("{}: folders are nested too deeply", from.display())));
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target, None, depth + 1)?;
        } else if kind.is_file() && except != Some(entry.path().as_path()) {
            crate::task::check()?;
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

impl Drop for PackageWriter {
    fn drop(&mut self) {
        // After `finish` there is no such folder; an error here has no one to go to.
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}
