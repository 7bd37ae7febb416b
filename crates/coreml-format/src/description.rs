//! Engine-neutral description of a model's inputs and outputs, whether read from the specification, a compiled model's
//! metadata, or Apple's framework.

use indexmap::IndexMap;

use crate::dtype::DataType;

/// Inclusive range of a dimension's extent; `max` is `None` if unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DimRange {
    /// Smallest extent.
    pub min: usize,
    /// Largest extent.
    pub max: Option<usize>,
}

/// Shapes that a multi-array feature accepts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapeConstraint {
    /// Not specified (an output whose shape depends on the input).
    Unspecified,
    /// The default shape only.
    Fixed,
    /// One of a list.
    Enumerated(Vec<Vec<usize>>),
    /// A range per dimension.
    Ranges(Vec<DimRange>),
}

/// Colour layout of an image feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ColorLayout {
    /// One channel of 8 bits.
    Grayscale,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel of 16-bit floats.
    GrayscaleFloat16,
}

/// Type of a feature.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureType {
    /// A 64-bit integer scalar.
    Int64,
    /// A 64-bit float scalar.
    Double,
    /// A string.
    String,
    /// An image, with its default height and width.
    Image {
        /// Colour layout.
        layout: ColorLayout,
        /// Default width in pixels.
        width: usize,
        /// Default height in pixels.
        height: usize,
        /// Other sizes as `[height, width]`: enumerated or ranges.
        sizes: ShapeConstraint,
    },
    /// A tensor.
    MultiArray {
        /// Element type.
        #[serde(serialize_with = "dtype_name")]
        dtype: DataType,
        /// Default shape; empty if unspecified.
        shape: Vec<usize>,
        /// Other shapes.
        constraint: ShapeConstraint,
        /// Default value of an optional input.
        default: Option<f64>,
    },
    /// A dictionary from integers (`true`) or strings (`false`) to doubles.
    Dictionary {
        /// True if the keys are integers.
        int_keys: bool,
    },
    /// A sequence of integers (`true`) or strings (`false`).
    Sequence {
        /// True if the elements are integers.
        ints: bool,
    },
    /// A state: a tensor that persists between predictions.
    State {
        /// Element type.
        #[serde(serialize_with = "dtype_name")]
        dtype: DataType,
        /// Shape.
        shape: Vec<usize>,
    },
}

impl FeatureType {
    /// Kind of value, for error messages.
    pub const fn in_words(&self) -> &'static str {
        match self {
            Self::Int64 => "an integer",
            Self::Double => "a number",
            Self::String => "a string",
            Self::Image { .. } => "an image",
            Self::MultiArray { .. } => "an array",
            Self::Dictionary { int_keys: true } => "a dictionary with integers as keys",
            Self::Dictionary { int_keys: false } => "a dictionary with strings as keys",
            Self::Sequence { ints: true } => "a sequence of integers",
            Self::Sequence { ints: false } => "a sequence of strings",
            Self::State { .. } => "a state",
        }
    }
}

fn dtype_name<S: serde::Serializer>(dtype: &DataType, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(dtype.name())
}

/// One input, output or state of a function.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct FeatureDescription {
    /// Name.
    pub name: String,
    /// The author's description.
    pub description: String,
    /// Type.
    #[serde(rename = "type")]
    pub ty: FeatureType,
    /// True if the input may be omitted.
    pub optional: bool,
}

/// Inputs, outputs and states of one function.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct FunctionDescription {
    /// Inputs, in order, without states.
    pub inputs: Vec<FeatureDescription>,
    /// Outputs, in order.
    pub outputs: Vec<FeatureDescription>,
    /// States, in order.
    pub states: Vec<FeatureDescription>,
    /// Output with the predicted label of a classifier.
    pub predicted_feature: Option<String>,
    /// Output with the class probabilities of a classifier.
    pub predicted_probabilities: Option<String>,
}

impl FunctionDescription {
    /// The input with this name.
    pub fn input(&self, name: &str) -> Option<&FeatureDescription> {
        self.inputs.iter().find(|f| f.name == name)
    }

    /// The output with this name.
    pub fn output(&self, name: &str) -> Option<&FeatureDescription> {
        self.outputs.iter().find(|f| f.name == name)
    }

    /// The state with this name.
    pub fn state(&self, name: &str) -> Option<&FeatureDescription> {
        self.states.iter().find(|f| f.name == name)
    }
}

/// Author metadata of a model.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Metadata {
    /// Short description.
    pub description: String,
    /// Version of the model.
    pub version: String,
    /// Author.
    pub author: String,
    /// Licence.
    pub license: String,
    /// User-defined entries, such as `com.anemll.context_length`.
    pub user: IndexMap<String, String>,
}

/// Description of a model.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct ModelDescription {
    /// Specification version: 6 for iOS 15 … 9 for iOS 18; 0 if unknown.
    pub specification_version: i32,
    /// Functions by name, in file order. A model without named functions has one called `main`.
    pub functions: IndexMap<String, FunctionDescription>,
    /// Name of the default function.
    pub default_function: String,
    /// Author metadata.
    pub metadata: Metadata,
}

impl ModelDescription {
    /// The function with this name, or the default one.
    pub fn function(&self, name: Option<&str>) -> Option<&FunctionDescription> {
        self.functions.get(name.unwrap_or(&self.default_function))
    }
}
