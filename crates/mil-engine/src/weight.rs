//! Constants that stay as stored: mapped dense data and the compressed forms of `constexpr_*`.
//!
//! Operations on the hot path compute from [`Weight::matrix`]; any other operation gets
//! [`Weight::expand`], a temporary dense copy.

use candle_core::Device;
use coreml_format::blob::Blob;
use coreml_format::dtype::DataType;

use crate::error::OpError;
use crate::literal;
use crate::value::Array;

/// A constant in its stored form.
pub struct Weight {
    dtype: DataType,
    shape: Vec<usize>,
    form: Form,
}

/// How the elements are stored.
enum Form {
    /// Elements as they are, mapped.
    Dense(Blob),
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weight({} {:?})", self.dtype, self.shape)
    }
}

impl Weight {
    /// Mapped elements; the caller has checked that the blob holds them all.
    pub(crate) fn dense(blob: Blob, dtype: DataType, shape: Vec<usize>) -> Self {
        Self { dtype, shape, form: Form::Dense(blob) }
    }

    /// Declared element type after expansion.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Logical shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes of the stored form.
    pub fn stored_bytes(&self) -> usize {
        match &self.form {
            Form::Dense(blob) => blob.len(),
        }
    }

    /// A dense copy.
    ///
    /// # Errors
    /// When Candle can't create the tensor.
    pub fn expand(&self, device: &Device) -> Result<Array, OpError> {
        match &self.form {
            Form::Dense(blob) => literal::decode(blob, self.dtype, &self.shape, device),
        }
    }
}
