//! Copies the weights of a program into a new package.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use coreml_format::blob::BlobRef;
use coreml_format::description::ModelDescription;
use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Block, Program, TensorData, Value, ValueData};
use coreml_format::task;
use coreml_format::verify::verify;
use coreml_format::weights::Weights;
use coreml_format::write::PackageWriter;
use sha2::{Digest, Sha256};

use super::error::{EditError, Result};
use crate::passes::Pool;

/// A package that takes programs of other models with their weights. Equal constants are stored once.
pub struct Repack {
    path: PathBuf,
    writer: PackageWriter,
    /// Stored constants by element type and content.
    stored: HashMap<(DataType, [u8; 32]), BlobRef>,
    /// Bytes of the constants that programs refer to, each once a source; bytes stored.
    bytes: (u64, u64),
}

/// Copies a constant of another model.
type Copy<'f> = dyn FnMut(&mut Repack, &BlobRef) -> Result<BlobRef> + 'f;

impl Repack {
    /// Starts a package at a path that does not exist yet.
    ///
    /// # Errors
    /// [`EditError::Io`] if it exists or can't be created.
    pub fn create(path: &Path) -> Result<Self> {
        let writer = PackageWriter::create(path).map_err(EditError::io(path))?;
        Ok(Self { path: path.to_owned(), writer, stored: HashMap::new(), bytes: (0, 0) })
    }

    /// Stores packed elements, or finds them.
    ///
    /// # Errors
    /// [`EditError::Io`] if writing fails.
    pub fn blob(&mut self, dtype: DataType, elements: usize, bytes: &[u8]) -> Result<BlobRef> {
        let mut hash = Sha256::new();
        hash.update((elements as u64).to_le_bytes());
        hash.update(bytes);
        let key = (dtype, hash.finalize().into());
        self.bytes.0 += bytes.len() as u64;
        if let Some(at) = self.stored.get(&key) {
            return Ok(at.clone());
        }
        self.bytes.1 += bytes.len() as u64;
        let at = self.writer.blob(dtype, elements, [bytes]).map_err(EditError::io(&self.path))?;
        self.stored.insert(key, at.clone());
        Ok(at)
    }

    /// A constant in the weight file.
    ///
    /// # Errors
    /// [`EditError::Io`] if writing fails.
    pub fn value(&mut self, dtype: DataType, shape: &[usize], bytes: &[u8]) -> Result<Value> {
        Ok(Value::blob(dtype, shape, self.blob(dtype, shape.iter().product(), bytes)?))
    }

    /// Copies every weight that a program refers to, and makes the program refer to the copies.
    ///
    /// # Errors
    /// [`EditError::Blob`] if a weight can't be read, [`EditError::Io`] if it can't be written.
    pub fn adopt(&mut self, program: &mut Program, weights: &Weights) -> Result<()> {
        self.adopt_from(program, &mut |repack, at| {
            let blob = weights.resolve(at)?;
            repack.blob(blob.dtype(), blob.elements(), &blob)
        })
    }

    /// Copies the constants that rewrites made, too.
    ///
    /// # Errors
    /// As [`Repack::adopt`].
    pub fn adopt_pool(&mut self, program: &mut Program, pool: &Pool<'_>) -> Result<()> {
        self.adopt_from(program, &mut |repack, at| {
            let (dtype, elements, bytes) = pool.blob(at)?;
            repack.blob(dtype, elements, &bytes)
        })
    }

    fn adopt_from(&mut self, program: &mut Program, copy: &mut Copy<'_>) -> Result<()> {
        let mut moved: HashMap<BlobRef, BlobRef> = HashMap::new();
        for (name, function) in &mut program.functions {
            let mut all = Vec::new();
            values(&mut function.block, &mut all);
            all.extend(function.attributes.values_mut());
            let total = all.len();
            for (i, value) in all.into_iter().enumerate() {
                task::step(name, i + 1, total).map_err(|_| EditError::cancelled(&self.path))?;
                self.adopt_value(value, copy, &mut moved)?;
            }
        }
        Ok(())
    }

    fn adopt_value(
        &mut self,
        value: &mut Value,
        copy: &mut Copy<'_>,
        moved: &mut HashMap<BlobRef, BlobRef>,
    ) -> Result<()> {
        match &mut value.data {
            ValueData::Tensor(TensorData::Blob(at)) => {
                let new = match moved.get(at) {
                    Some(new) => new.clone(),
                    None => {
                        let new = copy(self, at)?;
                        moved.insert(at.clone(), new.clone());
                        new
                    }
                };
                *at = new;
                Ok(())
            }
            ValueData::Tensor(_) => Ok(()),
            ValueData::Tuple(all) | ValueData::List(all) => {
                all.iter_mut().try_for_each(|v| self.adopt_value(v, copy, moved))
            }
            ValueData::Dictionary(all) => all.iter_mut().try_for_each(|(k, v)| {
                self.adopt_value(k, copy, moved)?;
                self.adopt_value(v, copy, moved)
            }),
        }
    }

    /// Bytes of constants that were given, and those stored.
    pub fn bytes(&self) -> (u64, u64) {
        self.bytes
    }

    /// Finishes the package.
    ///
    /// # Errors
    /// [`EditError::Program`] if the program is inconsistent, [`EditError::Io`] if writing fails.
    pub fn finish(self, description: &ModelDescription, program: &Program) -> Result<()> {
        verify(program)?;
        self.writer.finish(description, program).map_err(EditError::io(&self.path))
    }

    /// Finishes the package with an encoded specification.
    ///
    /// # Errors
    /// [`EditError::Io`] if writing fails.
    pub fn finish_encoded(self, specification: &[u8]) -> Result<()> {
        self.writer.finish_encoded(specification).map_err(EditError::io(&self.path))
    }
}

/// Every literal of a block.
fn values<'b>(block: &'b mut Block, out: &mut Vec<&'b mut Value>) {
    for op in &mut block.operations {
        out.extend(op.attributes.values_mut());
        for argument in op.inputs.values_mut() {
            let bindings = match argument {
                Argument::One(b) => std::slice::from_mut(b),
                Argument::Many(all) => all.as_mut_slice(),
            };
            out.extend(bindings.iter_mut().filter_map(|b| match b {
                Binding::Value(v) => Some(v),
                Binding::Name(_) => None,
            }));
        }
        for nested in &mut op.blocks {
            values(nested, out);
        }
    }
}

/// Every place in weight files that a block refers to.
pub(crate) fn blobs(block: &Block) -> Vec<BlobRef> {
    let mut block = block.clone();
    let mut all = Vec::new();
    values(&mut block, &mut all);
    let at = |v: &mut Value| match &v.data {
        ValueData::Tensor(TensorData::Blob(at)) => Some(at.clone()),
        _ => None,
    };
    all.into_iter().filter_map(at).collect()
}
