//! Converts tensors to the numbers of features.

use candle_core::{Device, Storage, Tensor, WithDType};

use crate::array::{ArrayType, Buffer, Slice};
use crate::convert::to_array;
use crate::error::NativeError;

/// Elements of a tensor as integers: floats must be integral and in the range that `f64` represents exactly.
///
/// # Errors
/// [`NativeError::Feature`] with the first non-integral number, or an element type that Core ML lacks.
pub fn integers(feature: &str, tensor: &Tensor) -> Result<Vec<i64>, NativeError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if tensor.dtype().is_float() {
        let numbers = doubles(feature, tensor)?;
        if let Some(bad) = numbers.iter().find(|n| n.fract() != 0.0 || n.abs() > EXACT) {
            return Err(NativeError::feature(feature, "whole numbers", bad.to_string()));
        }
        return Ok(numbers.into_iter().map(|n| n as i64).collect());
    }
    dense(feature, tensor, |elements| match elements {
        Slice::U8(v) => Some(v.iter().copied().map(i64::from).collect()),
        Slice::U32(v) => Some(v.iter().copied().map(i64::from).collect()),
        Slice::I8(v) => Some(v.iter().copied().map(i64::from).collect()),
        Slice::I16(v) => Some(v.iter().copied().map(i64::from).collect()),
        Slice::I32(v) => Some(v.iter().copied().map(i64::from).collect()),
        Slice::I64(v) => Some(v.to_vec()),
        Slice::BF16(_) | Slice::F16(_) | Slice::F32(_) | Slice::F64(_) => None,
    })
}

/// Elements of a tensor as `f64`, rounded to nearest.
///
/// # Errors
/// [`NativeError::Feature`] with an element type that Core ML lacks.
pub fn doubles(feature: &str, tensor: &Tensor) -> Result<Vec<f64>, NativeError> {
    dense(feature, tensor, |elements| match to_array(feature, elements, ArrayType::F64) {
        Ok(Buffer::F64(numbers)) => Some(numbers),
        _ => None,
    })
}

/// Elements of a tensor as `f32`, rounded to nearest.
///
/// # Errors
/// Same as [`doubles`].
pub fn singles(feature: &str, tensor: &Tensor) -> Result<Vec<f32>, NativeError> {
    dense(feature, tensor, |elements| match to_array(feature, elements, ArrayType::F32) {
        Ok(Buffer::F32(numbers)) => Some(numbers),
        _ => None,
    })
}

/// Runs `f` on the elements of a tensor in row-major order.
fn dense<R>(feature: &str, tensor: &Tensor, f: impl FnOnce(Slice<'_>) -> Option<R>) -> Result<R, NativeError> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let elements = match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Slice::of(storage).and_then(|all| all.get(start, end)),
        _ => None,
    };
    let found = || format!("elements of type {}", tensor.dtype().as_str());
    elements.and_then(f).ok_or_else(|| NativeError::feature(feature, "numbers", found()))
}

/// Elements of a tensor, in row-major order.
///
/// # Errors
/// If the tensor has another type.
pub fn elements<T: WithDType>(tensor: &Tensor) -> Result<Vec<T>, NativeError> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// The single element of a slice.
///
/// # Errors
/// If there are none or several.
pub fn only<T: Copy>(feature: &str, numbers: &[T]) -> Result<T, NativeError> {
    match numbers {
        [number] => Ok(*number),
        _ => Err(NativeError::feature(feature, "one number", format!("{} numbers", numbers.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    #[test]
    fn integers_are_taken_from_whole_numbers_alone() {
        let of = |numbers: &[f64]| Tensor::new(numbers, &Device::Cpu).expect("a tensor");
        assert_eq!(integers("x", &of(&[1.0, -2.0, 9_007_199_254_740_992.0])).expect("whole")[1], -2);
        assert_eq!(integers("x", &of(&[])).expect("none"), [] as [i64; 0]);
        for bad in [0.5, f64::NAN, f64::INFINITY, 1e17] {
            let error = integers("x", &of(&[1.0, bad])).expect_err("not whole").to_string();
            assert!(error.contains("`x`") && error.contains(&bad.to_string()), "{error}");
        }
        let wide = Tensor::new(&[i64::MAX, i64::MIN], &Device::Cpu).expect("a tensor");
        assert_eq!(integers("x", &wide).expect("integers"), [i64::MAX, i64::MIN]);
        assert_eq!(only("x", &[3]).ok(), Some(3));
        assert!(only::<i64>("x", &[]).is_err() && only("x", &[1, 2]).is_err());
    }

    #[test]
    fn numbers_are_read_from_every_type_that_core_ml_knows_and_no_other() {
        let wide = Tensor::new(&[3_i64, -1, 7, 2], &Device::Cpu).and_then(|t| t.reshape((2, 2))?.t()).expect("a view");
        for dtype in [DType::U32, DType::I16, DType::I32, DType::I64, DType::BF16, DType::F16, DType::F32, DType::F64] {
            let signed = dtype != DType::U32;
            let t = if signed { wide.clone() } else { wide.abs().expect("no signs") };
            let (t, second) = (t.to_dtype(dtype).expect("it has them"), if signed { -1 } else { 1 });
            assert_eq!(integers("x", &t).expect("whole"), [3, 7, second, 2], "{dtype:?}");
            assert_eq!(doubles("x", &t).expect("numbers"), [3.0, 7.0, second as f64, 2.0], "{dtype:?}");
            assert_eq!(singles("x", &t).expect("numbers"), [3.0, 7.0, second as f32, 2.0], "{dtype:?}");
        }
        for dtype in [DType::F8E4M3, DType::F6E2M3, DType::F6E3M2, DType::F4, DType::F8E8M0] {
            let t = Tensor::from_raw_buffer(&[0x38], dtype, &[1], &Device::Cpu).expect("one byte");
            for error in [integers("x", &t).err(), doubles("x", &t).err(), singles("x", &t).err()] {
                let message = error.expect("refused").to_string();
                assert!(message.contains("`x`") && message.contains(dtype.as_str()), "{message}");
            }
        }
    }
}
