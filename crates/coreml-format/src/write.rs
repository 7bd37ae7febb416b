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

/// A package being written. It cannot be opened before [`PackageWriter::finish`].
#[derive(Debug)]
pub struct PackageWriter {
    root: PathBuf,
    weights: BufWriter<File>,
    /// Bytes written to the weight file.
    length: u64,
    count: u32,
}

const AUTHOR: &str = "com.apple.CoreML";
const WEIGHT_FILE: &str = "@model_path/weights/weight.bin";

impl PackageWriter {
    /// Starts a package at a path that does not exist yet.
    ///
    /// # Errors
    /// If the folder exists or cannot be created.
    pub fn create(root: &Path) -> std::io::Result<Self> {
        let weights = root.join("Data").join(AUTHOR).join("weights");
        if root.exists() {
            let text = format!("{} exists already", root.display());
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, text));
        }
        std::fs::create_dir_all(&weights)?;
        let mut weights = BufWriter::with_capacity(1 << 20, File::create(weights.join("weight.bin"))?);
        weights.write_all(&[0; ALIGN])?;
        Ok(Self { root: root.to_owned(), weights, length: ALIGN as u64, count: 0 })
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
    pub fn blob<'p>(
        &mut self,
        dtype: DataType,
        elements: usize,
        pieces: impl IntoIterator<Item = &'p [u8]>,
    ) -> std::io::Result<BlobRef> {
        let invalid = |text: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, text);
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
        self.weights.write_all(&record)?;
        let mut written = 0;
        for piece in pieces {
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

    /// Writes header, specification and manifest.
    ///
    /// # Errors
    /// If writing fails.
    pub fn finish(mut self, description: &ModelDescription, program: &Program) -> std::io::Result<()> {
        self.pad()?;
        self.weights.seek(SeekFrom::Start(0))?;
        self.weights.write_all(&self.count.to_le_bytes())?;
        self.weights.write_all(&VERSION.to_le_bytes())?;
        self.weights.flush()?;
        let spec = self.root.join("Data").join(AUTHOR).join("model.mlmodel");
        std::fs::write(spec, spec::encode(description, program))?;
        let (model, weights) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());
        let item = |name: &str, path: &str, text: &str| serde_json::json!({"author": AUTHOR, "description": text, "name": name, "path": format!("{AUTHOR}/{path}")});
        let manifest = serde_json::json!({
            "fileFormatVersion": "1.0.0",
            "itemInfoEntries": {
                model.as_str(): item("model.mlmodel", "model.mlmodel", "CoreML Model Specification"),
                weights.as_str(): item("weights", "weights", "CoreML Model Weights"),
            },
            "rootModelIdentifier": model,
        });
        std::fs::write(self.root.join("Manifest.json"), serde_json::to_vec_pretty(&manifest)?)
    }
}
