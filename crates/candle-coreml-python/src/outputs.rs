//! Outputs as Python values, as coremltools returns them.

use candle_core::{DType, Tensor};
use candle_coreml::description::{FeatureType, FunctionDescription};
use candle_coreml::pixels::{self, Pixels};
use candle_coreml::{DictionaryKey, FeatureValue, RowOutputs};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};

use crate::{arrays, error};

/// Outputs by name: arrays, PIL images, `int`, `float`, `str`, `list`, `dict`.
pub(crate) fn dict<'py>(
    py: Python<'py>,
    described: &FunctionDescription,
    outputs: &RowOutputs,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in outputs {
        let ty = described.output(name).map(|f| &f.ty);
        dict.set_item(name, python(py, name, ty, value)?)?;
    }
    Ok(dict)
}

fn python<'py>(
    py: Python<'py>,
    name: &str,
    ty: Option<&FeatureType>,
    value: &FeatureValue,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        FeatureValue::Tensor(tensor) => match ty {
            Some(FeatureType::Image { layout, .. }) => {
                let image = pixels::from_tensor(name, *layout, tensor).map_err(|e| error::exception(py, &e))?;
                pil(py, image)?
            }
            Some(FeatureType::Int64) => {
                let n = number(tensor, DType::I64).and_then(|t| t.to_scalar::<i64>());
                PyInt::new(py, n.map_err(|e| arrays::failed(py, e))?).into_any()
            }
            Some(FeatureType::Double) => {
                let x = number(tensor, DType::F64).and_then(|t| t.to_scalar::<f64>());
                PyFloat::new(py, x.map_err(|e| arrays::failed(py, e))?).into_any()
            }
            Some(FeatureType::Sequence { .. }) => arrays::from_tensor(py, tensor)?.call_method0("tolist")?,
            _ => arrays::from_tensor(py, tensor)?,
        },
        FeatureValue::Int64(n) => PyInt::new(py, *n).into_any(),
        FeatureValue::Double(x) => PyFloat::new(py, *x).into_any(),
        FeatureValue::String(text) => PyString::new(py, text).into_any(),
        FeatureValue::Int64s(all) => PyList::new(py, all)?.into_any(),
        FeatureValue::Strings(all) => PyList::new(py, all)?.into_any(),
        FeatureValue::Dictionary(entries) => {
            let dict = PyDict::new(py);
            for (key, value) in entries {
                match key {
                    DictionaryKey::Int(n) => dict.set_item(n, value)?,
                    DictionaryKey::String(text) => dict.set_item(text, value)?,
                }
            }
            dict.into_any()
        }
    })
}

fn number(tensor: &Tensor, dtype: DType) -> candle_core::Result<Tensor> {
    tensor.to_dtype(dtype)?.reshape(())
}

/// An image as Core ML's Python interface returns it: colours as RGBA, opaque.
fn pil(py: Python<'_>, (width, height, pixels): (usize, usize, Pixels)) -> PyResult<Bound<'_, PyAny>> {
    let (mode, bytes) = match pixels {
        Pixels::Rgb(rgb) => ("RGBA", rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], u8::MAX]).collect()),
        Pixels::Gray(gray) => ("L", gray),
        Pixels::GrayFloat(gray) => ("F", gray.iter().flat_map(|s| s.to_ne_bytes()).collect::<Vec<u8>>()),
    };
    py.import("PIL.Image")?.call_method1("frombytes", (mode, (width, height), PyBytes::new(py, &bytes)))
}
