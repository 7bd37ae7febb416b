//! NumPy arrays as tensors, without a copy where they lie as tensors do, and tensors as NumPy arrays.

use candle_core::{DType, Tensor, WithDType};
use candle_coreml::lent::Lender;
use half::f16;
use numpy::{
    Element, PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::error;

/// An array of a type that tensors have, in row-major order.
pub(crate) enum Array<'py> {
    U8(Bound<'py, PyArrayDyn<u8>>),
    U32(Bound<'py, PyArrayDyn<u32>>),
    I16(Bound<'py, PyArrayDyn<i16>>),
    I32(Bound<'py, PyArrayDyn<i32>>),
    I64(Bound<'py, PyArrayDyn<i64>>),
    F16(Bound<'py, PyArrayDyn<f16>>),
    F32(Bound<'py, PyArrayDyn<f32>>),
    F64(Bound<'py, PyArrayDyn<f64>>),
}

impl<'py> Array<'py> {
    /// The array that a value is: itself, or a copy if it is no array, not row-major, or of another element type (8-bit
    /// and unsigned integers become wider ones).
    ///
    /// # Errors
    /// If the value is no array of numbers.
    pub(crate) fn of(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        if let Ok(array) = value.cast::<PyUntypedArray>() {
            return Self::of_array(name, array.clone());
        }
        let plain =
            if value.hasattr("detach")? { value.call_method0("detach")?.call_method0("cpu")? } else { value.clone() };
        let array = py.import("numpy")?.call_method1("asarray", (plain,))?;
        Self::of_array(name, array.cast_into::<PyUntypedArray>()?)
    }

    fn of_array(name: &str, array: Bound<'py, PyUntypedArray>) -> PyResult<Self> {
        let py = array.py();
        let dtype = array.dtype();
        let wanted = match (dtype.kind(), dtype.itemsize()) {
            (b'b', 1) | (b'u', 1) => "uint8",
            (b'i', 1 | 2) => "int16",
            (b'i', 4) | (b'u', 2) => "int32",
            (b'i', 8) => "int64",
            (b'u', 4) => "uint32",
            (b'u', 8) => {
                let most = if array.is_empty() { 0u64 } else { array.call_method0("max")?.extract()? };
                if most > i64::MAX as u64 {
                    return Err(error::input(py, name, "integers of 64 bits with a sign", most.to_string()));
                }
                "int64"
            }
            (b'f', 2) => "float16",
            (b'f', 4) => "float32",
            (b'f', 8) => "float64",
            _ => return Err(error::input(py, name, "an array of numbers", format!("an array of {dtype}"))),
        };
        // NumPy's booleans are not of its `uint8` type, but are its bytes.
        let array = if dtype.kind() == b'b' { array.call_method1("view", ("uint8",))? } else { array.into_any() };
        match Self::in_place(&array)? {
            Some(ready) => Ok(ready),
            None => {
                let copy = py.import("numpy")?.call_method1("require", (array, wanted, ("C", "A")))?;
                let ready = Self::in_place(&copy)?;
                ready.ok_or_else(|| error::input(py, name, "an array of numbers", format!("an array of {dtype}")))
            }
        }
    }

    /// The array, if its elements lie as those of a tensor.
    fn in_place(array: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        fn typed<'py, T: Element>(array: &Bound<'py, PyAny>) -> Option<Bound<'py, PyArrayDyn<T>>> {
            // This compares element types, byte order included.
            let array = array.cast::<PyArrayDyn<T>>().ok()?;
            (array.is_c_contiguous() && array.data().is_aligned()).then(|| array.clone())
        }
        let untyped = array.cast::<PyUntypedArray>()?;
        let dtype = untyped.dtype();
        Ok(match (dtype.kind(), dtype.itemsize()) {
            (b'f', 4) => typed(array).map(Self::F32),
            (b'i', 4) => typed(array).map(Self::I32),
            (b'i', 8) => typed(array).map(Self::I64),
            (b'f', 2) => typed(array).map(Self::F16),
            (b'f', 8) => typed(array).map(Self::F64),
            (b'u', 1) => typed(array).map(Self::U8),
            (b'u', 4) => typed(array).map(Self::U32),
            (b'i', 2) => typed(array).map(Self::I16),
            _ => None,
        })
    }

    /// A tensor of the array's own elements, until the lender's scope ends.
    pub(crate) fn lend<'env>(&'env self, lender: &Lender<'env>) -> candle_core::Result<Tensor> {
        fn lend<'env, T: Element + WithDType>(
            lender: &Lender<'env>,
            array: &'env Bound<'_, PyArrayDyn<T>>,
        ) -> candle_core::Result<Tensor> {
            let (shape, elements) = (array.shape(), array.len());
            let data: &'env [T] = if elements == 0 {
                &[]
            } else {
                // SAFETY: the array is C-contiguous and aligned, checked by `in_place`, and holds `elements` initialized
                // values of this type. `array` is borrowed for `'env`, which keeps the memory: NumPy refuses to resize an
                // array that others refer to. Code of other threads that writes to it during a prediction is at fault by
                // NumPy's own rules; the page docs/python.md says so.
                unsafe { std::slice::from_raw_parts(array.data(), elements) }
            };
            // SAFETY: the tensor goes to predictions only, which change no input in place.
            unsafe { lender.tensor(data, shape) }
        }
        match self {
            Self::U8(a) => lend(lender, a),
            Self::U32(a) => lend(lender, a),
            Self::I16(a) => lend(lender, a),
            Self::I32(a) => lend(lender, a),
            Self::I64(a) => lend(lender, a),
            Self::F16(a) => lend(lender, a),
            Self::F32(a) => lend(lender, a),
            Self::F64(a) => lend(lender, a),
        }
    }
}

/// A tensor as an array of its own; 16-bit floats become float32, as in coremltools.
pub(crate) fn from_tensor<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    fn array<'py, T: Element + WithDType>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
        let flat = tensor.flatten_all().and_then(|t| t.to_vec1::<T>()).map_err(|e| failed(py, e))?;
        Ok(PyArray1::from_vec(py, flat).reshape(tensor.dims())?.into_any())
    }
    match tensor.dtype() {
        DType::U8 => array::<u8>(py, tensor),
        DType::U32 => array::<u32>(py, tensor),
        DType::I16 => array::<i16>(py, tensor),
        DType::I32 => array::<i32>(py, tensor),
        DType::I64 => array::<i64>(py, tensor),
        DType::F64 => array::<f64>(py, tensor),
        DType::F32 => array::<f32>(py, tensor),
        _ => array::<f32>(py, &tensor.to_dtype(DType::F32).map_err(|e| failed(py, e))?),
    }
}

/// The exception of an error of Candle.
pub(crate) fn failed(py: Python<'_>, error: candle_core::Error) -> PyErr {
    error::exception(py, &error.into())
}
