//! What flows between operations.
//!
//! An [`Array`] is a Candle tensor with the element type that the program declares. Candle stores each
//! class of element types in one representation, so that an operation handles three cases, not twenty:
//!
//! | MIL element types | stored as |
//! |---|---|
//! | fp16, fp32, fp64, bf16, fp8 | `F32` |
//! | all integers | `I64` |
//! | bool | `U8` (0 or 1) |
//!
//! Keeping fp16 values as `F32` between operations makes arithmetic accumulate in f32 (results are at
//! least as exact as fp16 arithmetic); weights and states stay as stored.

use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use coreml_format::dtype::DataType;
use mil_kernels::matvec::Precision;

use crate::budget::{self, Counted};
use crate::error::OpError;
use crate::weight::Weight;

/// A tensor and the element type that the program declares for it.
#[derive(Debug, Clone)]
pub struct Array {
    tensor: Tensor,
    dtype: DataType,
}

/// The Candle type that holds values of this element type between operations; `None` for strings.
pub fn storage_dtype(dtype: DataType) -> Option<DType> {
    match dtype {
        DataType::Bool => Some(DType::U8),
        DataType::String => None,
        d if d.is_float() => Some(DType::F32),
        _ => Some(DType::I64),
    }
}

impl Array {
    /// Takes a tensor as a value of `dtype`, converting its representation if it differs.
    ///
    /// # Errors
    /// For strings, and when Candle can't convert.
    pub fn new(tensor: Tensor, dtype: DataType) -> Result<Self, OpError> {
        let storage = storage_dtype(dtype).ok_or_else(|| OpError::data("strings are not tensors"))?;
        let tensor = if tensor.dtype() == storage { tensor } else { crate::layout::to_dtype(&tensor, storage)? };
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

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The tensor of an array of floats.
    ///
    /// # Errors
    /// When its elements are integers or booleans.
    pub fn floats(&self) -> Result<&Tensor, OpError> {
        if self.tensor.dtype() == DType::F32 {
            return Ok(&self.tensor);
        }
        Err(OpError::data(format!("expected floats, found {} {:?}", self.dtype, self.tensor.dims())))
    }

    /// The tensor, owned.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// The declared element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// What products of this value may round it to.
    pub(crate) fn precision(&self) -> Precision {
        if self.dtype == DataType::F16 { Precision::Half } else { Precision::Single }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.tensor.rank()
    }

    /// Bytes of the elements between operations.
    pub(crate) fn bytes(&self) -> usize {
        self.tensor.elem_count().saturating_mul(self.tensor.dtype().size_in_bytes())
    }

    /// The same declared type with another tensor of the same representation.
    pub fn with(&self, tensor: Tensor) -> Self {
        Self { tensor, dtype: self.dtype }
    }

    /// Elements as `f32` in row-major order, copied; integers and booleans are converted.
    pub fn to_f32s(&self) -> Result<Vec<f32>, OpError> {
        crate::layout::to_f32s(&self.tensor.counted_to_dtype(DType::F32)?)
    }

    /// Elements as `i64` in row-major order, copied; floats are truncated towards zero.
    pub fn to_i64s(&self) -> Result<Vec<i64>, OpError> {
        if self.tensor.dtype() == DType::I64
            && self.tensor.is_contiguous()
            && let Some(data) = crate::layout::with_elements(&self.tensor, |data: &[i64]| {
                budget::claim(self.bytes())?;
                Ok(data[..self.tensor.elem_count()].to_vec())
            })
        {
            return data;
        }
        crate::layout::contiguous(&self.tensor)?.counted_to_dtype(DType::I64)?.counted_elements()
    }

    /// Elements as 0 or 1 in row-major order, copied.
    pub fn to_bools(&self) -> Result<Vec<u8>, OpError> {
        let tensor = if self.tensor.dtype() == DType::U8 {
            self.tensor.clone()
        } else {
            let zeros = self.tensor.counted_zeros_like()?;
            budget::claim_of::<u8>(zeros.elem_count())?;
            self.tensor.ne(&zeros)?
        };
        crate::layout::contiguous(&tensor)?.counted_elements()
    }
}

/// Runs `f` on the elements of an `F32` tensor without copying, if it is contiguous and in CPU memory.
pub fn with_f32s<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Option<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(data)) => data.get(start..end).map(f),
        _ => None,
    }
}

/// A value during execution.
#[derive(Debug, Clone)]
pub enum Value {
    /// A tensor.
    Array(Array),
    /// A constant that stays as stored.
    Weight(Arc<Weight>),
    /// A tensor of strings.
    Strings(Arc<Strings>),
    /// A list of values.
    List(Arc<Vec<Value>>),
    /// A dictionary, in insertion order.
    Dictionary(Arc<Vec<(Value, Value)>>),
    /// The state of this index in the function's list of states.
    State(usize),
}

/// A tensor of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings {
    /// Elements in row-major order.
    pub data: Vec<String>,
    /// Shape; empty for one string.
    pub shape: Vec<usize>,
}

impl Value {
    /// What kind of value this is, for messages.
    pub fn kind(&self) -> String {
        match self {
            Value::Array(a) => format!("{} tensor {:?}", a.dtype(), a.shape()),
            Value::Weight(w) => format!("{} weight {:?}", w.dtype(), w.shape()),
            Value::Strings(s) => format!("string tensor {:?}", s.shape),
            Value::List(l) => format!("list of {}", l.len()),
            Value::Dictionary(d) => format!("dictionary of {}", d.len()),
            Value::State(_) => "state".to_owned(),
        }
    }

    /// The array; weights are expanded on `device`.
    pub fn array(&self, name: &str, device: &Device) -> Result<Array, OpError> {
        match self {
            Value::Array(a) => Ok(a.clone()),
            Value::Weight(w) => w.expand(device),
            other => Err(OpError::Kind { name: name.to_owned(), expected: "a tensor", found: other.kind() }),
        }
    }
}

impl From<Array> for Value {
    fn from(a: Array) -> Self {
        Value::Array(a)
    }
}

/// A Rust type that attributes and small arguments are read as.
pub trait FromValue: Sized + Clone {
    /// Reads the value of parameter `name`.
    ///
    /// # Errors
    /// When the value is of another kind.
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError>;
}

fn small(name: &str, value: &Value, expected: &'static str) -> Result<Array, OpError> {
    value.array(name, &Device::Cpu).map_err(|_| OpError::Kind { name: name.to_owned(), expected, found: value.kind() })
}

fn one<T: Clone>(name: &str, data: Vec<T>, expected: &'static str) -> Result<T, OpError> {
    match data.as_slice() {
        [x] => Ok(x.clone()),
        _ => Err(OpError::Kind { name: name.to_owned(), expected, found: format!("{} values", data.len()) }),
    }
}

impl FromValue for Vec<i64> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        small(name, value, "integers")?.to_i64s()
    }
}

impl FromValue for i64 {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        one(name, Vec::from_value(name, value)?, "one integer")
    }
}

impl FromValue for Vec<f32> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        small(name, value, "numbers")?.to_f32s()
    }
}

impl FromValue for f32 {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        one(name, Vec::from_value(name, value)?, "one number")
    }
}

impl FromValue for Vec<bool> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        Ok(small(name, value, "booleans")?.to_bools()?.into_iter().map(|b| b != 0).collect())
    }
}

impl FromValue for bool {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        one(name, Vec::from_value(name, value)?, "one boolean")
    }
}

impl FromValue for String {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        match value {
            Value::Strings(s) => one(name, s.data.clone(), "one string"),
            other => Err(OpError::Kind { name: name.to_owned(), expected: "one string", found: other.kind() }),
        }
    }
}
