//! Element types of Core ML's multi-arrays, with buffers and slices of them.
//!
//! Codes: `MLMultiArrayDataType` of `MLMultiArray.h`, identical to the specification's
//! `ArrayFeatureType.ArrayDataType`: kind in the upper half, bits in the lower.

use std::ffi::c_void;
use std::ptr::NonNull;

use candle_core::{CpuStorage, DType, Device, Shape, Tensor};
use coreml_format::dtype::DataType;
use half::{bf16, f16};

/// Element type of an `MLMultiArray`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArrayType {
    /// 16-bit float.
    F16,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 8-bit signed integer.
    I8,
    /// 32-bit signed integer.
    I32,
}

/// One row per type: type, code, specification type, Candle type of outputs, bytes.
const TABLE: [(ArrayType, isize, DataType, DType, usize); 5] = [
    (ArrayType::F16, 0x10010, DataType::F16, DType::F16, 2),
    (ArrayType::F32, 0x10020, DataType::F32, DType::F32, 4),
    (ArrayType::F64, 0x10040, DataType::F64, DType::F64, 8),
    // Candle has no i8.
    (ArrayType::I8, 0x20008, DataType::I8, DType::I16, 1),
    (ArrayType::I32, 0x20020, DataType::I32, DType::I32, 4),
];

impl ArrayType {
    /// All types.
    pub const ALL: [Self; 5] = [Self::F16, Self::F32, Self::F64, Self::I8, Self::I32];

    fn row(self) -> (isize, DataType, DType, usize) {
        let (_, code, data, candle, bytes) = TABLE[match self {
            Self::F16 => 0,
            Self::F32 => 1,
            Self::F64 => 2,
            Self::I8 => 3,
            Self::I32 => 4,
        }];
        (code, data, candle, bytes)
    }

    /// Value of `MLMultiArrayDataType`.
    pub fn code(self) -> isize {
        self.row().0
    }

    /// The type with this `MLMultiArrayDataType`; `None` for types of later systems.
    pub fn from_code(code: isize) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// The specification's element type.
    pub fn data_type(self) -> DataType {
        self.row().1
    }

    /// The multi-array type for this element type; `None` if Core ML has none.
    pub fn from_data_type(dtype: DataType) -> Option<Self> {
        TABLE.iter().find(|row| row.2 == dtype).map(|row| row.0)
    }

    /// Candle type of outputs with this element type.
    pub fn candle(self) -> DType {
        self.row().2
    }

    /// Size and alignment of an element, in bytes.
    pub fn bytes(self) -> usize {
        self.row().3
    }
}

/// Borrowed elements of a CPU tensor or multi-array.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each name says it: kind and bits")]
pub enum Slice<'a> {
    U8(&'a [u8]),
    U32(&'a [u32]),
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> Slice<'a> {
    /// Elements of a Candle storage; `None` for types unsupported by Core ML (fp8 and smaller).
    pub fn of(storage: &'a CpuStorage) -> Option<Self> {
        Some(match storage {
            CpuStorage::U8(v) => Self::U8(v),
            CpuStorage::U32(v) => Self::U32(v),
            CpuStorage::I16(v) => Self::I16(v),
            CpuStorage::I32(v) => Self::I32(v),
            CpuStorage::I64(v) => Self::I64(v),
            CpuStorage::BF16(v) => Self::BF16(v),
            CpuStorage::F16(v) => Self::F16(v),
            CpuStorage::F32(v) => Self::F32(v),
            CpuStorage::F64(v) => Self::F64(v),
            _ => return None,
        })
    }

    /// Address of the first element; aligned but dangling for empty slices.
    pub fn address(&self) -> NonNull<c_void> {
        match *self {
            Self::U8(v) => NonNull::from(v).cast(),
            Self::U32(v) => NonNull::from(v).cast(),
            Self::I8(v) => NonNull::from(v).cast(),
            Self::I16(v) => NonNull::from(v).cast(),
            Self::I32(v) => NonNull::from(v).cast(),
            Self::I64(v) => NonNull::from(v).cast(),
            Self::BF16(v) => NonNull::from(v).cast(),
            Self::F16(v) => NonNull::from(v).cast(),
            Self::F32(v) => NonNull::from(v).cast(),
            Self::F64(v) => NonNull::from(v).cast(),
        }
    }

    /// Elements `start..end`; `None` if out of bounds.
    pub fn get(self, start: usize, end: usize) -> Option<Self> {
        Some(match self {
            Self::U8(v) => Self::U8(v.get(start..end)?),
            Self::U32(v) => Self::U32(v.get(start..end)?),
            Self::I8(v) => Self::I8(v.get(start..end)?),
            Self::I16(v) => Self::I16(v.get(start..end)?),
            Self::I32(v) => Self::I32(v.get(start..end)?),
            Self::I64(v) => Self::I64(v.get(start..end)?),
            Self::BF16(v) => Self::BF16(v.get(start..end)?),
            Self::F16(v) => Self::F16(v.get(start..end)?),
            Self::F32(v) => Self::F32(v.get(start..end)?),
            Self::F64(v) => Self::F64(v.get(start..end)?),
        })
    }

    /// Multi-array type with the same memory representation.
    pub fn array_type(&self) -> Option<ArrayType> {
        Some(match self {
            Self::F16(_) => ArrayType::F16,
            Self::F32(_) => ArrayType::F32,
            Self::F64(_) => ArrayType::F64,
            Self::I8(_) => ArrayType::I8,
            Self::I32(_) => ArrayType::I32,
            _ => return None,
        })
    }
}

/// Owned elements of a multi-array, dense and row-major.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each name says it: kind and bits")]
pub enum Buffer {
    F16(Vec<f16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I8(Vec<i8>),
    I32(Vec<i32>),
}

impl Buffer {
    /// Element type.
    pub fn array_type(&self) -> ArrayType {
        match self {
            Self::F16(_) => ArrayType::F16,
            Self::F32(_) => ArrayType::F32,
            Self::F64(_) => ArrayType::F64,
            Self::I8(_) => ArrayType::I8,
            Self::I32(_) => ArrayType::I32,
        }
    }

    /// The elements.
    pub fn as_slice(&self) -> Slice<'_> {
        match self {
            Self::F16(v) => Slice::F16(v),
            Self::F32(v) => Slice::F32(v),
            Self::F64(v) => Slice::F64(v),
            Self::I8(v) => Slice::I8(v),
            Self::I32(v) => Slice::I32(v),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F16(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::I32(v) => v.len(),
        }
    }

    /// Returns true if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Converts to a CPU tensor without copying, except that int8 is widened to `I16`, which Candle supports.
    ///
    /// # Errors
    /// If the shape has another number of elements.
    pub fn into_tensor(self, shape: impl Into<Shape>) -> candle_core::Result<Tensor> {
        let shape = shape.into();
        match self {
            Self::F16(v) => Tensor::from_vec(v, shape, &Device::Cpu),
            Self::F32(v) => Tensor::from_vec(v, shape, &Device::Cpu),
            Self::F64(v) => Tensor::from_vec(v, shape, &Device::Cpu),
            Self::I8(v) => Tensor::from_vec(v.into_iter().map(i16::from).collect::<Vec<_>>(), shape, &Device::Cpu),
            Self::I32(v) => Tensor::from_vec(v, shape, &Device::Cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back_and_match_the_specification() {
        for ty in ArrayType::ALL {
            assert_eq!(ArrayType::from_code(ty.code()), Some(ty));
            assert_eq!(ArrayType::from_data_type(ty.data_type()), Some(ty));
            assert_eq!(ty.code() & 0xffff, ty.bytes() as isize * 8, "{ty:?}: the lower half counts bits");
            assert_eq!(ty.code() >> 16, if ty.data_type().is_float() { 1 } else { 2 }, "{ty:?}");
        }
        assert_eq!(ArrayType::from_code(0), None);
        assert_eq!(ArrayType::from_data_type(DataType::Bool), None);
    }

    #[test]
    fn buffers_become_tensors_of_the_declared_type() {
        for ty in ArrayType::ALL {
            let buffer = match ty {
                ArrayType::F16 => Buffer::F16(vec![f16::ONE; 6]),
                ArrayType::F32 => Buffer::F32(vec![1.0; 6]),
                ArrayType::F64 => Buffer::F64(vec![1.0; 6]),
                ArrayType::I8 => Buffer::I8(vec![-1; 6]),
                ArrayType::I32 => Buffer::I32(vec![1; 6]),
            };
            assert_eq!((buffer.array_type(), buffer.len(), buffer.is_empty()), (ty, 6, false));
            let tensor = buffer.clone().into_tensor((2, 3)).expect("six elements");
            assert_eq!(tensor.dtype(), ty.candle());
            assert!(buffer.into_tensor((2, 2)).is_err());
        }
        let widened = Buffer::I8(vec![-128, 127]).into_tensor(2).expect("two elements");
        assert_eq!(widened.to_vec1::<i16>().expect("I16"), [-128, 127]);
    }
}
