//! Python values as what inputs take, by the type that the model declares.

use candle_coreml::description::{ColorLayout, FeatureDescription, FeatureType};
use candle_coreml::lent::Lender;
use candle_coreml::pixels::{self, Pixels};
use candle_coreml::{CoreMLModel, DictionaryKey, Error, FeatureValue};
use numpy::PyUntypedArray;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::arrays::{self, Array};
use crate::error;

/// One row of inputs by name.
pub(crate) struct Row<'py>(Vec<(String, Given<'py>)>);

/// A converted value, or an array that is lent.
enum Given<'py> {
    Array(Array<'py>),
    Value(FeatureValue),
}

impl<'py> Row<'py> {
    /// Converts the values of a dictionary.
    ///
    /// # Errors
    /// If the model has no input of a name, or the value is not of its type.
    pub(crate) fn of(model: &CoreMLModel, data: &Bound<'py, PyDict>) -> PyResult<Self> {
        let described = model.function_description();
        let mut row = Vec::with_capacity(data.len());
        for (name, value) in data {
            let name: String = name.extract()?;
            let given = match described.input(&name) {
                Some(feature) => declared(feature, &value)?,
                None if described.inputs.is_empty() => by_type(&name, &value)?,
                None => {
                    return Err(error::exception(
                        data.py(),
                        &Error::NotFound {
                            what: "input",
                            name,
                            path: model.path().to_owned(),
                            available: model.input_names().join(", "),
                        },
                    ));
                }
            };
            row.push((name, given));
        }
        Ok(Self(row))
    }

    /// Inputs of a prediction within the lender's scope.
    pub(crate) fn lend<'env>(&'env self, lender: &Lender<'env>) -> Result<Vec<(&'env str, FeatureValue)>, Error> {
        let value = |(name, given): &'env (String, Given<'py>)| {
            let value = match given {
                Given::Array(array) => FeatureValue::Tensor(array.lend(lender)?),
                Given::Value(value) => value.clone(),
            };
            Ok((name.as_str(), value))
        };
        self.0.iter().map(value).collect()
    }
}

fn declared<'py>(feature: &FeatureDescription, value: &Bound<'py, PyAny>) -> PyResult<Given<'py>> {
    let name = feature.name.as_str();
    let wrong = || error::input(value.py(), name, feature.ty.in_words(), error::type_name(value));
    Ok(match &feature.ty {
        FeatureType::MultiArray { .. } | FeatureType::State { .. } => {
            if value.is_instance_of::<PyString>() || value.is_instance_of::<PyDict>() {
                return Err(wrong());
            }
            Given::Array(Array::of(name, value)?)
        }
        FeatureType::Image { layout, .. } => Given::Value(image(name, *layout, value)?),
        FeatureType::Int64 => match value.extract::<i64>() {
            Ok(n) if !value.is_instance_of::<PyFloat>() => Given::Value(n.into()),
            _ => by_type(name, value)?,
        },
        FeatureType::Double => match value.extract::<f64>() {
            Ok(x) if value.cast::<PyUntypedArray>().is_err() => Given::Value(x.into()),
            _ => by_type(name, value)?,
        },
        FeatureType::String => Given::Value(value.extract::<String>().map_err(|_| wrong())?.into()),
        FeatureType::Sequence { .. } if value.is_instance_of::<PyString>() => return Err(wrong()),
        FeatureType::Sequence { ints: true } => Given::Value(integers(value).ok_or_else(wrong)?.into()),
        FeatureType::Sequence { ints: false } => {
            Given::Value(value.extract::<Vec<String>>().map_err(|_| wrong())?.into())
        }
        FeatureType::Dictionary { int_keys } => {
            Given::Value(dictionary(value.cast::<PyDict>()?, *int_keys).ok_or_else(wrong)?.into())
        }
    })
}

/// A value whose own type says what it is.
fn by_type<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Given<'py>> {
    let wrong =
        || error::input(value.py(), name, "an array, a number, a string or a dictionary", error::type_name(value));
    Ok(Given::Value(if value.is_instance_of::<PyBool>() || value.is_instance_of::<PyInt>() {
        value.extract::<i64>().map_err(|_| wrong())?.into()
    } else if value.is_instance_of::<PyFloat>() {
        value.extract::<f64>()?.into()
    } else if value.is_instance_of::<PyString>() {
        value.extract::<String>()?.into()
    } else if let Ok(entries) = value.cast::<PyDict>() {
        let found = dictionary(entries, true).or_else(|| dictionary(entries, false));
        found.ok_or_else(wrong)?.into()
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        match value.extract::<Vec<String>>() {
            Ok(strings) => strings.into(),
            Err(_) => return Ok(Given::Array(Array::of(name, value)?)),
        }
    } else if value.cast::<PyUntypedArray>().is_ok() || value.hasattr("__array__")? || value.hasattr("dtype")? {
        return Ok(Given::Array(Array::of(name, value)?));
    } else {
        return Err(wrong());
    }))
}

/// Integers of a sequence, or of an array of integers of one dimension.
fn integers(value: &Bound<'_, PyAny>) -> Option<Vec<i64>> {
    let items = value.try_iter().ok()?;
    items.map(|item| item.ok().filter(|i| !i.is_instance_of::<PyFloat>())?.extract::<i64>().ok()).collect()
}

/// Integers are keys of either kind: where strings are described they become text, as the names of features that
/// scikit-learn's vectorizers saw as integers.
fn dictionary(entries: &Bound<'_, PyDict>, int_keys: bool) -> Option<Vec<(DictionaryKey, f64)>> {
    let key = |key: &Bound<'_, PyAny>| match (int_keys, key.extract::<i64>().ok()) {
        (true, n) => n.map(DictionaryKey::Int),
        (false, Some(n)) => Some(DictionaryKey::String(n.to_string())),
        (false, None) => key.extract::<String>().ok().map(DictionaryKey::String),
    };
    entries.iter().map(|(k, v)| Some((key(&k)?, v.extract::<f64>().ok()?))).collect()
}

/// A PIL image of the mode that coremltools wants: RGB for colours, L for gray, F for 16-bit gray.
fn image(name: &str, layout: ColorLayout, value: &Bound<'_, PyAny>) -> PyResult<FeatureValue> {
    let py = value.py();
    let mode = match layout {
        ColorLayout::Rgb | ColorLayout::Bgr => "RGB",
        ColorLayout::Grayscale => "L",
        ColorLayout::GrayscaleFloat16 => "F",
    };
    let expected = || format!("a PIL.Image.Image of mode {mode}");
    let is_image = match py.import("PIL.Image") {
        Ok(module) => value.is_instance(&module.getattr("Image")?)?,
        Err(_) => false,
    };
    if !is_image {
        return Err(error::input(py, name, expected(), error::type_name(value)));
    }
    let found: String = value.getattr("mode")?.extract()?;
    if found != mode {
        return Err(error::input(py, name, expected(), format!("mode {found}")));
    }
    let (width, height): (usize, usize) = value.getattr("size")?.extract()?;
    let bytes: Vec<u8> = value.call_method0("tobytes")?.extract()?;
    let pixels = match layout {
        ColorLayout::Rgb | ColorLayout::Bgr => Pixels::Rgb(bytes),
        ColorLayout::Grayscale => Pixels::Gray(bytes),
        ColorLayout::GrayscaleFloat16 => {
            Pixels::GrayFloat(bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
    };
    let tensor = pixels::to_tensor(name, layout, width, height, &pixels);
    tensor.map(FeatureValue::Tensor).map_err(|e| error::exception(py, &e))
}

/// A tensor of a value's own, for states.
pub(crate) fn owned_tensor(name: &str, value: &Bound<'_, PyAny>) -> PyResult<candle_core::Tensor> {
    let array = Array::of(name, value)?;
    let copy = candle_coreml::lent::scope(|lender| array.lend(lender)?.copy());
    copy.map_err(|e| arrays::failed(value.py(), e))
}
