//! Descriptions of models: what they take, return and keep.

use candle_coreml::description::{self as described, ColorLayout, FeatureType, ShapeConstraint};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// One input, output or state.
#[pyclass(module = "candle_coreml", frozen, get_all)]
pub(crate) struct FeatureDescription {
    /// Name.
    name: String,
    /// `array`, `image`, `int64`, `double`, `string`, `dictionary`, `sequence` or `state`.
    kind: &'static str,
    /// Element type of an array or state as NumPy names it, such as `float16`; of a dictionary its keys (`int64` or
    /// `string`), of a sequence its elements, of an image its layout (`RGB`, `BGR`, `GRAYSCALE`, `GRAYSCALE_FLOAT16`).
    dtype: Option<String>,
    /// Default shape of an array or state; `(height, width)` of an image.
    shape: Option<Py<PyTuple>>,
    /// Other shapes that are accepted: a tuple of shapes (enumerated), or `None`.
    enumerated_shapes: Option<Py<PyTuple>>,
    /// Range of every dimension, `(least, most)`, most `None` if there is no end; or `None`.
    shape_ranges: Option<Py<PyTuple>>,
    /// True if the input may be left out.
    optional: bool,
    /// Value of an optional array that is left out.
    default: Option<f64>,
    /// The author's description.
    description: String,
}

impl FeatureDescription {
    fn of(py: Python<'_>, feature: &described::FeatureDescription) -> PyResult<Self> {
        let fixed = &ShapeConstraint::Fixed;
        let text = |t: &str| Some(t.to_owned());
        let (kind, dtype, shape, shapes, default) = match &feature.ty {
            FeatureType::Int64 => ("int64", None, None, fixed, None),
            FeatureType::Double => ("double", None, None, fixed, None),
            FeatureType::String => ("string", None, None, fixed, None),
            FeatureType::Image { layout, width, height, sizes } => {
                let layout = match layout {
                    ColorLayout::Rgb => "RGB",
                    ColorLayout::Bgr => "BGR",
                    ColorLayout::Grayscale => "GRAYSCALE",
                    ColorLayout::GrayscaleFloat16 => "GRAYSCALE_FLOAT16",
                };
                ("image", text(layout), Some(vec![*height, *width]), sizes, None)
            }
            FeatureType::MultiArray { dtype, shape, constraint, default } => {
                ("array", Some(numpy_name(dtype.name())), Some(shape.clone()), constraint, *default)
            }
            FeatureType::Dictionary { int_keys } => {
                ("dictionary", text(if *int_keys { "int64" } else { "string" }), None, fixed, None)
            }
            FeatureType::Sequence { ints } => {
                ("sequence", text(if *ints { "int64" } else { "string" }), None, fixed, None)
            }
            FeatureType::State { dtype, shape } => {
                ("state", Some(numpy_name(dtype.name())), Some(shape.clone()), fixed, None)
            }
        };
        let tuple = |shape: &Vec<usize>| Ok::<_, PyErr>(PyTuple::new(py, shape)?.unbind());
        let (mut enumerated_shapes, mut shape_ranges) = (None, None);
        match shapes {
            ShapeConstraint::Unspecified | ShapeConstraint::Fixed => {}
            ShapeConstraint::Enumerated(all) => {
                let all = all.iter().map(tuple).collect::<PyResult<Vec<_>>>()?;
                enumerated_shapes = Some(PyTuple::new(py, all)?.unbind());
            }
            ShapeConstraint::Ranges(all) => {
                shape_ranges = Some(PyTuple::new(py, all.iter().map(|r| (r.min, r.max)))?.unbind());
            }
        }
        Ok(Self {
            name: feature.name.clone(),
            kind,
            dtype,
            shape: shape.as_ref().map(tuple).transpose()?,
            enumerated_shapes,
            shape_ranges,
            optional: feature.optional,
            default,
            description: feature.description.clone(),
        })
    }
}

/// Name of an element type in NumPy.
fn numpy_name(name: &str) -> String {
    match name {
        "fp16" => "float16".to_owned(),
        "fp32" => "float32".to_owned(),
        "fp64" => "float64".to_owned(),
        "bf16" => "bfloat16".to_owned(),
        other => other.to_owned(),
    }
}

#[pymethods]
impl FeatureDescription {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut text = format!("{}: {}", self.name, self.kind);
        if let Some(dtype) = &self.dtype {
            text += &format!(" {dtype}");
        }
        if let Some(shape) = &self.shape {
            text += &format!(" {}", shape.bind(py).repr()?);
        }
        Ok(if self.optional { text + ", optional" } else { text })
    }
}

/// What a model is: inputs, outputs and states of the loaded function, and the author's metadata.
#[pyclass(module = "candle_coreml", frozen, get_all)]
pub(crate) struct ModelDescription {
    /// Inputs, in order, without states.
    inputs: Vec<Py<FeatureDescription>>,
    /// Outputs, in order.
    outputs: Vec<Py<FeatureDescription>>,
    /// States, in order.
    states: Vec<Py<FeatureDescription>>,
    /// Output with the label of a classifier.
    predicted_feature_name: Option<String>,
    /// Output with the probabilities of a classifier.
    predicted_probabilities_name: Option<String>,
    /// Names of all functions of the file.
    functions: Vec<String>,
    /// Name of the default function.
    default_function_name: String,
    /// Version of the specification: 6 for iOS 15 … 9 for iOS 18; 0 if unknown.
    specification_version: i32,
    /// Short description.
    short_description: String,
    /// Author.
    author: String,
    /// Licence.
    license: String,
    /// Version of the model.
    version: String,
    /// User-defined entries of the metadata.
    user_defined_metadata: Py<PyDict>,
}

impl ModelDescription {
    pub(crate) fn of(py: Python<'_>, model: &candle_coreml::CoreMLModel) -> PyResult<Self> {
        let (file, function) = (model.description(), model.function_description());
        let features = |all: &[described::FeatureDescription]| {
            all.iter().map(|f| Py::new(py, FeatureDescription::of(py, f)?)).collect::<PyResult<Vec<_>>>()
        };
        let user = PyDict::new(py);
        for (key, value) in &file.metadata.user {
            user.set_item(key, value)?;
        }
        Ok(Self {
            inputs: features(&function.inputs)?,
            outputs: features(&function.outputs)?,
            states: features(&function.states)?,
            predicted_feature_name: function.predicted_feature.clone(),
            predicted_probabilities_name: function.predicted_probabilities.clone(),
            functions: model.functions().into_iter().map(str::to_owned).collect(),
            default_function_name: file.default_function.clone(),
            specification_version: file.specification_version,
            short_description: file.metadata.description.clone(),
            author: file.metadata.author.clone(),
            license: file.metadata.license.clone(),
            version: file.metadata.version.clone(),
            user_defined_metadata: user.unbind(),
        })
    }
}

#[pymethods]
impl ModelDescription {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let list = |name: &str, all: &[Py<FeatureDescription>]| {
            let all = all.iter().map(|f| f.get().__repr__(py)).collect::<PyResult<Vec<_>>>()?;
            Ok::<_, PyErr>(format!("{name}: [{}]", all.join("; ")))
        };
        let parts = [list("inputs", &self.inputs)?, list("outputs", &self.outputs)?, list("states", &self.states)?];
        Ok(format!("ModelDescription({})", parts.join(", ")))
    }
}
