//! Tensors passed between operations.
//!
//! An [`Array`] is a Candle tensor with its declared element type. Each class of element types has one representation,
//! so an operation handles three cases rather than twenty:
//!
//! | MIL element types | stored as |
//! |---|---|
//! | fp16, fp32, fp64, bf16, fp8 | `F32` |
//! | all integers | `I64` |
//! | bool | `U8` (0 or 1) |
//!
//! Because fp16 values are held as `F32` between operations, arithmetic accumulates in f32 (at least as exact as fp16
//! arithmetic); weights and states keep their stored type.

use candle_core::{DType, Device, Tensor};
use coreml_format::dtype::DataType;
use coreml_kernels::matvec::Precision;

use crate::budget::{self, Counted};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_elements;
use crate::rearrange::elsewhere;

/// A tensor and its declared element type.
#[derive(Debug, Clone)]
pub struct Array {
    tensor: Tensor,
    dtype: DataType,
}

/// The Candle type that represents this element type between operations; `None` for strings.
pub fn storage_dtype(dtype: DataType) -> Option<DType> {
    match dtype {
        DataType::Bool => Some(DType::U8),
        DataType::String => None,
        d if d.is_float() => Some(DType::F32),
        _ => Some(DType::I64),
    }
}

impl Array {
    /// Wraps a tensor as a value of `dtype`, converting its representation if needed.
    ///
    /// # Errors
    /// If `dtype` is a string type or Candle cannot convert.
    pub fn new(tensor: Tensor, dtype: DataType) -> Result<Self, OpError> {
        let storage = storage_dtype(dtype).ok_or_else(|| OpError::data("strings are not tensors"))?;
        let tensor = if tensor.dtype() == storage { tensor } else { layout::to_dtype(&tensor, storage)? };
        Ok(Self { tensor, dtype })
    }

    /// A float array from elements in row-major order.
    pub fn from_f32(data: Vec<f32>, shape: &[usize], dtype: DataType, device: &Device) -> Result<Self, OpError> {
        Ok(Self { tensor: Tensor::from_vec(data, shape, device)?, dtype })
    }

    /// An integer array from elements in row-major order.
    pub fn from_i64(data: Vec<i64>, shape: &[usize], dtype: DataType, device: &Device) -> Result<Self, OpError> {
        Ok(Self { tensor: Tensor::from_vec(data, shape, device)?, dtype })
    }

    /// A boolean array from elements in row-major order.
    pub fn from_bool(data: Vec<u8>, shape: &[usize], device: &Device) -> Result<Self, OpError> {
        Ok(Self { tensor: Tensor::from_vec(data, shape, device)?, dtype: DataType::Bool })
    }

    /// Returns the tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Returns the tensor of a float array.
    ///
    /// # Errors
    /// If the elements are integers or booleans.
    pub fn floats(&self) -> Result<&Tensor, OpError> {
        if self.tensor.dtype() == DType::F32 {
            return Ok(&self.tensor);
        }
        Err(OpError::data(format!("expected floats, found {} {:?}", self.dtype, self.tensor.dims())))
    }

    /// Returns the tensor by value.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// The declared element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Precision to which products of this value may be rounded.
    pub(crate) fn precision(&self) -> Precision {
        if self.dtype == DataType::F16 { Precision::Half } else { Precision::Single }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.tensor.rank()
    }

    /// Size of the elements in bytes, in their representation between operations.
    pub(crate) fn bytes(&self) -> usize {
        self.tensor.elem_count().saturating_mul(self.tensor.dtype().size_in_bytes())
    }

    /// Replaces the tensor by another one of the same representation, keeping the declared type.
    pub fn with(&self, tensor: Tensor) -> Self {
        Self { tensor, dtype: self.dtype }
    }

    /// Copies the elements as `f32` in row-major order; integers and booleans are converted.
    pub fn to_f32s(&self) -> Result<Vec<f32>, OpError> {
        layout::to_f32s(&self.tensor.counted_to_dtype(DType::F32)?)
    }

    /// Copies the elements as `i64` in row-major order; floats are truncated towards zero.
    pub fn to_i64s(&self) -> Result<Vec<i64>, OpError> {
        if self.tensor.dtype() == DType::I64
            && self.tensor.is_contiguous()
            && let Some(data) = with_elements(&self.tensor, |data: &[i64]| {
                budget::claim(self.bytes())?;
                Ok(data[..self.tensor.elem_count()].to_vec())
            })
        {
            return data;
        }
        layout::contiguous(&self.tensor)?.counted_to_dtype(DType::I64)?.counted_elements()
    }

    /// Calls `f` with the elements as floats in row-major order, without a copy if they are stored that way.
    ///
    /// # Errors
    /// If copying fails.
    pub(crate) fn with_rows<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R, OpError> {
        if self.tensor.dtype() != DType::F32 || !self.tensor.device().is_cpu() {
            return Ok(f(&self.to_f32s()?));
        }
        layout::with_rows(&self.tensor, f)?.ok_or_else(elsewhere)
    }

    /// Calls `f` with the elements as integers in row-major order, without a copy if they are stored that way.
    ///
    /// # Errors
    /// If copying fails.
    pub(crate) fn with_i64s<R>(&self, f: impl FnOnce(&[i64]) -> R) -> Result<R, OpError> {
        let count = self.tensor.elem_count();
        if self.tensor.dtype() == DType::I64 && self.tensor.is_contiguous() && self.tensor.device().is_cpu() {
            let result = with_elements(&self.tensor, |data: &[i64]| f(&data[..count]));
            return result.ok_or_else(elsewhere);
        }
        Ok(f(&self.to_i64s()?))
    }

    /// Copies the elements as 0 or 1 in row-major order.
    pub fn to_bools(&self) -> Result<Vec<u8>, OpError> {
        let tensor = if self.tensor.dtype() == DType::U8 {
            self.tensor.clone()
        } else {
            let zeros = self.tensor.counted_zeros_like()?;
            budget::claim_of::<u8>(zeros.elem_count())?;
            self.tensor.ne(&zeros)?
        };
        layout::contiguous(&tensor)?.counted_elements()
    }
}
