//! Constants that rewrites read and make. Large ones that they make wait in a scratch file until the model is written.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use coreml_format::blob::BlobRef;
use coreml_format::dtype::DataType;
use coreml_format::program::{TensorData, Value, ValueData};
use coreml_format::weights::Weights;

use crate::edit::{Stored, packed, stored};

/// Name of the scratch file in programs.
const SCRATCH: &str = "@scratch";

/// Most bytes of a constant that lies in the program itself.
const INLINE: usize = 1024;

/// Constants of a program that is being rewritten.
#[derive(Debug)]
pub struct Pool<'w> {
    weights: Option<&'w Weights>,
    scratch: Option<File>,
    /// Element type, number of elements and place of each constant in the scratch file, which programs refer to by index.
    made: Vec<(DataType, usize, u64)>,
    length: u64,
}

impl<'w> Pool<'w> {
    /// Constants of a program whose weight files can't be read, because they are being written. Constants that are made
    /// stay in memory.
    pub fn detached() -> Self {
        Self { weights: None, scratch: None, made: Vec::new(), length: 0 }
    }

    /// Constants of a model. The scratch file lies, unnamed, in the folder where the new model will be.
    ///
    /// # Errors
    /// If the file can't be created.
    pub fn new(weights: &'w Weights, to: &Path) -> std::io::Result<Self> {
        let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { weights: Some(weights), scratch: Some(tempfile::tempfile_in(folder)?), ..Self::detached() })
    }

    /// The weight files of the model.
    pub(crate) fn weights(&self) -> Option<&'w Weights> {
        self.weights
    }

    /// Reads a constant.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, value: &Value) -> Result<Stored, String> {
        let ValueData::Tensor(TensorData::Blob(at)) = &value.data else {
            return stored(value, &Weights::default());
        };
        if *at.file != *SCRATCH {
            return stored(value, self.weights.ok_or("the weight file is not complete")?);
        }
        let (dtype, _, bytes) = self.made(at)?;
        let shape = value.ty.tensor().and_then(|t| t.fixed_shape()).ok_or("expected a known shape")?;
        Ok(Stored { dtype, shape, bytes })
    }

    /// Numbers of a constant.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn numbers(&self, value: &Value) -> Result<Vec<f32>, String> {
        self.read(value)?.numbers()
    }

    fn made(&self, at: &BlobRef) -> Result<(DataType, usize, Vec<u8>), String> {
        let missing = || "expected a constant that was made".to_owned();
        let index = usize::try_from(at.offset).map_err(|_| missing())?;
        let &(dtype, elements, place) = self.made.get(index).ok_or_else(missing)?;
        let mut file = self.scratch.as_ref().ok_or_else(missing)?;
        let mut bytes = vec![0; dtype.packed_len(elements).ok_or_else(missing)?];
        file.seek(SeekFrom::Start(place)).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| e.to_string())?;
        Ok((dtype, elements, bytes))
    }

    /// A constant of these packed elements.
    ///
    /// # Errors
    /// If the scratch file can't be written.
    pub fn write(&mut self, dtype: DataType, shape: &[usize], bytes: Vec<u8>) -> Result<Value, String> {
        let Some(mut file) = self.scratch.as_ref().filter(|_| bytes.len() > INLINE && dtype.blob_code().is_some())
        else {
            return Ok(Value::tensor(dtype, shape, bytes));
        };
        file.seek(SeekFrom::Start(self.length)).and_then(|_| file.write_all(&bytes)).map_err(|e| e.to_string())?;
        let at = BlobRef { file: Arc::from(SCRATCH), offset: self.made.len() as u64 };
        self.made.push((dtype, shape.iter().product(), self.length));
        self.length += bytes.len() as u64;
        Ok(Value::blob(dtype, shape, at))
    }

    /// A constant of these numbers, as fp16 or fp32. `None` if one is not finite in that type, or the type is another.
    ///
    /// # Errors
    /// As [`Pool::write`].
    pub fn floats(&mut self, dtype: DataType, shape: &[usize], values: &[f32]) -> Result<Option<Value>, String> {
        let limit = match dtype {
            DataType::F16 => 65504.0,
            DataType::F32 => f32::MAX,
            _ => return Ok(None),
        };
        match packed::floats(dtype, values).filter(|_| values.iter().all(|v| v.abs() <= limit)) {
            Some(bytes) => self.write(dtype, shape, bytes).map(Some),
            None => Ok(None),
        }
    }

    /// A constant of the weight files or of the scratch file: element type, number of elements, packed elements.
    pub(crate) fn blob(&self, at: &BlobRef) -> Result<(DataType, usize, Cow<'_, [u8]>), crate::edit::EditError> {
        if *at.file == *SCRATCH {
            let (dtype, elements, bytes) =
                self.made(at).map_err(|e| crate::edit::EditError::io(Path::new(SCRATCH))(std::io::Error::other(e)))?;
            return Ok((dtype, elements, Cow::Owned(bytes)));
        }
        let blob = self.weights.map_or_else(|| Weights::default().resolve(at), |w| w.resolve(at))?;
        Ok((blob.dtype(), blob.elements(), Cow::Owned(blob.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_that_are_made_read_back_and_large_ones_lie_in_the_file() {
        let (weights, folder) = (Weights::default(), tempfile::tempdir().expect("a folder"));
        let mut pool = Pool::new(&weights, &folder.path().join("new.mlpackage")).expect("a pool");
        let numbers: Vec<f32> = (0..700).map(|i| i as f32 - 350.0).collect();
        let small = pool.floats(DataType::F16, &[2], &numbers[..2]).expect("written").expect("finite");
        let large = pool.floats(DataType::F16, &[7, 100], &numbers).expect("written").expect("finite");
        let more = pool.floats(DataType::F32, &[700], &numbers).expect("written").expect("finite");
        assert!(matches!(small.data, ValueData::Tensor(TensorData::Bytes(_))));
        for value in [&large, &more] {
            assert!(matches!(value.data, ValueData::Tensor(TensorData::Blob(_))));
            assert_eq!(pool.numbers(value).expect("numbers"), numbers);
        }
        assert_eq!(pool.read(&large).expect("a constant").shape, [7, 100]);
        assert!(pool.floats(DataType::F16, &[1], &[65505.0]).expect("no file").is_none());
        assert!(pool.floats(DataType::F32, &[1], &[f32::NAN]).expect("no file").is_none());
        assert!(pool.floats(DataType::I32, &[1], &[1.0]).expect("no file").is_none());
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        // In memory while weights are being written; what lies in their file can't be read.
        let mut detached = Pool::detached();
        let value = detached.floats(DataType::F32, &[700], &numbers).expect("kept").expect("finite");
        assert_eq!(detached.numbers(&value).expect("numbers"), numbers);
        assert!(detached.read(&large).is_err());
    }
}
