//! The typed intermediate representation (IR) of an ML Program.
//!
//! One form for the protobuf specification (`.mlmodel`, `.mlpackage`) and the MIL text of a compiled model
//! (`.mlmodelc/model.mil`): a [`Program`] has [`Function`]s, a function has one [`Block`], a block has [`Operation`]s
//! in execution order, and an operation binds its named parameters to earlier values or to literal [`Value`]s. Names
//! are unique within a function.
//!
//! The IR owns no tensor data beyond small immediate values: large constants are [`BlobRef`]s into a mapped weight file
//! (see [`crate::blob`]).

use indexmap::IndexMap;

use crate::blob::{Blob, BlobRef};
use crate::dtype::DataType;

/// One extent of a tensor shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A known extent.
    Fixed(usize),
    /// Unknown until run time (`?`).
    Unknown,
    /// Any number of unknown extents (`*?`).
    Variadic,
}

impl Dim {
    /// The extent, if known.
    pub fn fixed(self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(n),
            Dim::Unknown | Dim::Variadic => None,
        }
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Unknown => f.write_str("?"),
            Dim::Variadic => f.write_str("*?"),
        }
    }
}

/// Element type and shape of a tensor. A scalar has an empty shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DataType,
    /// Extents, outermost first; `[Variadic]` if even the rank is unknown.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A tensor type with known extents.
    pub fn fixed(dtype: DataType, shape: &[usize]) -> Self {
        Self { dtype, shape: shape.iter().map(|&n| Dim::Fixed(n)).collect() }
    }

    /// The shape, if every extent is known.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.fixed()).collect()
    }
}

/// Type of a value in a program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// A tensor; scalars and strings are tensors of rank 0.
    Tensor(TensorType),
    /// A list of equally typed elements; the length may be unknown.
    List(Box<ValueType>, Dim),
    /// A fixed sequence of differently typed values.
    Tuple(Vec<ValueType>),
    /// A dictionary from key type to value type.
    Dictionary(Box<ValueType>, Box<ValueType>),
    /// A mutable buffer that persists between predictions (opset iOS18).
    State(Box<ValueType>),
}

impl ValueType {
    /// The tensor type, looking through `State`.
    pub fn tensor(&self) -> Option<&TensorType> {
        match self {
            ValueType::Tensor(t) => Some(t),
            ValueType::State(inner) => inner.tensor(),
            _ => None,
        }
    }
}

/// A named and typed value: a function input, a block input, or an operation output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedType {
    /// Name of the value.
    pub name: String,
    /// Its type.
    pub ty: ValueType,
}

/// Elements of an immediate tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// Little-endian elements in row-major order, packed as in weight files: sub-byte types are a bit
    /// stream, least significant bit first; booleans take one byte each (0 or 1).
    Bytes(Vec<u8>),
    /// The elements of a string tensor.
    Strings(Vec<String>),
    /// Elements stored in a weight file.
    Blob(BlobRef),
    /// Elements that lie in the specification: a range of the mapped file, packed like those of a weight file.
    Shared(Blob),
}

/// A literal in a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Its type; for tensors all extents are fixed.
    pub ty: ValueType,
    /// Its content.
    pub data: ValueData,
}

impl Value {
    /// A tensor of packed little-endian elements.
    pub fn tensor(dtype: DataType, shape: &[usize], bytes: Vec<u8>) -> Self {
        let ty = ValueType::Tensor(TensorType::fixed(dtype, shape));
        Self { ty, data: ValueData::Tensor(TensorData::Bytes(bytes)) }
    }

    /// A tensor whose elements are stored in a weight file.
    pub fn blob(dtype: DataType, shape: &[usize], at: BlobRef) -> Self {
        let ty = ValueType::Tensor(TensorType::fixed(dtype, shape));
        Self { ty, data: ValueData::Tensor(TensorData::Blob(at)) }
    }

    /// A string.
    pub fn string(text: &str) -> Self {
        let ty = ValueType::Tensor(TensorType::fixed(DataType::String, &[]));
        Self { ty, data: ValueData::Tensor(TensorData::Strings(vec![text.to_owned()])) }
    }

    /// A vector of `int32`.
    pub fn ints(values: &[i32]) -> Self {
        Self::tensor(DataType::I32, &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A scalar `int32`.
    pub fn int(value: i32) -> Self {
        Self::tensor(DataType::I32, &[], value.to_le_bytes().to_vec())
    }

    /// A scalar `bool`.
    pub fn bool(value: bool) -> Self {
        Self::tensor(DataType::Bool, &[], vec![u8::from(value)])
    }

    /// A vector of `bool`.
    pub fn bools(values: &[bool]) -> Self {
        Self::tensor(DataType::Bool, &[values.len()], values.iter().map(|&v| u8::from(v)).collect())
    }

    /// A scalar `fp16`.
    pub fn f16(value: f32) -> Self {
        Self::tensor(DataType::F16, &[], half::f16::from_f32(value).to_le_bytes().to_vec())
    }
}

/// Content of a literal.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueData {
    /// A tensor, scalar or string.
    Tensor(TensorData),
    /// Elements of a tuple.
    Tuple(Vec<Value>),
    /// Elements of a list.
    List(Vec<Value>),
    /// Entries of a dictionary.
    Dictionary(Vec<(Value, Value)>),
}

/// Binding of one parameter of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Binding {
    /// A value defined earlier: a function or block input or the output of an operation.
    Name(String),
    /// A literal.
    Value(Value),
}

/// Binding of one named parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// One value.
    One(Binding),
    /// A variadic parameter, such as `values` of `concat`.
    Many(Vec<Binding>),
}

impl Argument {
    /// The bindings as a slice: one for [`Argument::One`].
    pub fn bindings(&self) -> &[Binding] {
        match self {
            Argument::One(b) => std::slice::from_ref(b),
            Argument::Many(b) => b,
        }
    }
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Type of the operation, such as `conv`.
    pub kind: String,
    /// Name from the `name` attribute, else the first output's name, else empty.
    pub name: String,
    /// Parameters by name, in file order.
    pub inputs: IndexMap<String, Argument>,
    /// Results, in order.
    pub outputs: Vec<NamedType>,
    /// Nested blocks of control flow.
    pub blocks: Vec<Block>,
    /// Attributes by name (`val` of a `const`, parameters of iOS16 `constexpr_*`), without `name`.
    pub attributes: IndexMap<String, Value>,
}

impl Operation {
    /// Attribute of an operation whose opset is not that of its function: parts of a pipeline keep theirs. Lowering sets
    /// it; no file has it.
    pub const OPSET: &str = "engine.opset";

    /// Its opset in a function of opset `function`.
    pub fn opset(&self, function: Opset) -> Opset {
        let own = self.attributes.get(Self::OPSET).and_then(|value| match &value.data {
            ValueData::Tensor(TensorData::Strings(text)) => Opset::from_name(text.first()?),
            _ => None,
        });
        own.unwrap_or(function)
    }
}

/// Operations in execution order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Block {
    /// Parameters of a nested block; empty for the block of a function.
    pub inputs: Vec<NamedType>,
    /// The operations.
    pub operations: Vec<Operation>,
    /// Names of the block's results.
    pub outputs: Vec<String>,
}

/// Opset of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opset {
    /// `CoreML5`.
    Ios15,
    /// `CoreML6`.
    Ios16,
    /// `CoreML7`.
    Ios17,
    /// `CoreML8`.
    Ios18,
    /// `CoreML9`.
    Ios26,
}

impl Opset {
    /// Name in the protobuf specification.
    pub fn spec_name(self) -> &'static str {
        match self {
            Opset::Ios15 => "CoreML5",
            Opset::Ios16 => "CoreML6",
            Opset::Ios17 => "CoreML7",
            Opset::Ios18 => "CoreML8",
            Opset::Ios26 => "CoreML9",
        }
    }

    /// Name in MIL text.
    pub fn text_name(self) -> &'static str {
        match self {
            Opset::Ios15 => "ios15",
            Opset::Ios16 => "ios16",
            Opset::Ios17 => "ios17",
            Opset::Ios18 => "ios18",
            Opset::Ios26 => "ios26",
        }
    }

    /// The opset with this name, in either spelling, case-insensitive.
    pub fn from_name(name: &str) -> Option<Self> {
        [Opset::Ios15, Opset::Ios16, Opset::Ios17, Opset::Ios18, Opset::Ios26]
            .into_iter()
            .find(|o| o.spec_name().eq_ignore_ascii_case(name) || o.text_name().eq_ignore_ascii_case(name))
    }
}

/// One entry point of a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Opset of the active block.
    pub opset: Opset,
    /// Parameters, states included, in order.
    pub inputs: Vec<NamedType>,
    /// The active block.
    pub block: Block,
    /// Attributes by name.
    pub attributes: IndexMap<String, Value>,
}

/// An ML Program.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Program {
    /// Functions by name, in file order.
    pub functions: IndexMap<String, Function>,
    /// Attributes by name, such as `buildInfo`.
    pub attributes: IndexMap<String, Value>,
}
