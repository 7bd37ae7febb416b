//! Errors of the engine. An operation reports what went wrong ([`OpError`]); planner and executor add the location
//! ([`EngineError`]).

use coreml_format::blob::BlobError;
use coreml_format::program::Opset;

/// An error in one operation. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A required parameter is not bound.
    #[error("parameter `{0}` is missing")]
    Missing(String),
    /// A parameter is bound to a value of the wrong kind.
    #[error("parameter `{name}`: expected {expected}, found {found}")]
    Kind {
        /// Parameter name.
        name: String,
        /// Expected kind.
        expected: &'static str,
        /// Kind of the bound value.
        found: String,
    },
    /// Shapes that do not fit the operation or each other.
    #[error("{0}")]
    Shape(String),
    /// An attribute value undefined for the operation.
    #[error("{name} = `{value}` is not one of the values that the operation defines ({expected})")]
    Attribute {
        /// Attribute name.
        name: String,
        /// Its value.
        value: String,
        /// Accepted values.
        expected: String,
    },
    /// A parameter that the operation lacks in this opset or in combination with its other parameters.
    #[error("parameter `{name}` is not one that the operation takes here (opset {opset})")]
    UnknownParameter {
        /// Parameter name.
        name: String,
        /// Opset of the function.
        opset: &'static str,
    },
    /// A value whose element type or shape contradicts its declaration.
    #[error("`{name}` is declared as {expected}, found {found}")]
    Declared {
        /// Value name.
        name: String,
        /// Its declared type.
        expected: String,
        /// Actual type.
        found: String,
    },
    /// Invalid input data, such as an index out of range.
    #[error("{0}")]
    Data(String),
    /// A result larger than the limit for one value.
    #[error("a result of shape {shape:?} exceeds the limit of {limit} elements")]
    TooLarge {
        /// Shape of the result.
        shape: Vec<usize>,
        /// Maximum number of elements.
        limit: usize,
    },
    /// Memory limit of a prediction or of loading exceeded.
    #[error("needs {bytes} bytes beside the {used} in use; the limit is {limit} bytes")]
    TooMuchMemory {
        /// Requested bytes.
        bytes: usize,
        /// Bytes in use at the time.
        used: usize,
        /// Limit in bytes ([`Limits::memory`](crate::Limits::memory)).
        limit: usize,
    },
    /// The system could not allocate memory that is within the limit.
    #[error("{bytes} bytes can't be allocated")]
    OutOfMemory {
        /// Requested bytes.
        bytes: usize,
    },
    /// Work limit of one operation or of all loops of a prediction exceeded.
    #[error(
        "{} beyond the limit of work: {work} elements or 32 times as many products; the limit is {limit}",
        if *loops { "loops go on" } else { "the operation is" }
    )]
    TooMuchWork {
        /// Requested work.
        work: u64,
        /// Limit ([`Limits::operation_work`](crate::Limits::operation_work) or
        /// [`Limits::loop_work`](crate::Limits::loop_work)).
        limit: u64,
        /// True for work of loops.
        loops: bool,
    },
    /// A valid program that uses a feature this engine does not support.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A layer or a model of the caller failed.
    #[error("the class `{class}` failed")]
    Custom {
        /// Its name in the model.
        class: String,
        /// Its error.
        #[source]
        source: crate::custom::CustomFailure,
    },
    /// The prediction was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A weight could not be read.
    #[error("a weight can't be read")]
    Blob(#[from] BlobError),
    /// Candle reported an error.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}

impl OpError {
    /// Stable name of the error kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Kind { .. } | Self::Attribute { .. } | Self::UnknownParameter { .. } => {
                "parameter"
            }
            Self::Shape(_) => "shape",
            Self::Declared { .. } => "declared",
            Self::Data(_) => "data",
            Self::TooLarge { .. } | Self::TooMuchMemory { .. } | Self::OutOfMemory { .. } => "memory",
            Self::TooMuchWork { .. } => "work",
            Self::Unsupported(_) => "unsupported",
            Self::Custom { .. } => "custom",
            Self::Cancelled => "cancelled",
            Self::Blob(_) => "weight",
            Self::Candle(_) => "candle",
        }
    }

    /// A shape error with this message.
    pub fn shape(message: impl Into<String>) -> Self {
        Self::Shape(message.into())
    }

    /// A data error with this message.
    pub fn data(message: impl Into<String>) -> Self {
        Self::Data(message.into())
    }
}

/// Location of an error in a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpLocation {
    /// Function.
    pub function: String,
    /// Type of the operation.
    pub kind: String,
    /// Name of the operation.
    pub name: String,
}

impl std::fmt::Display for OpLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "function `{}`: op `{}` ({})", self.function, self.name, self.kind)
    }
}

/// Location of an operation of a type the engine lacks.
pub type UnsupportedOp = OpLocation;

/// An operation introduced by a later opset than its function's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerOp {
    /// Its location.
    pub place: OpLocation,
    /// The opset that introduced it.
    pub since: Opset,
}

/// An error while loading or running a program. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The function does not exist.
    #[error("no function `{asked}`; the model has {}", available.join(", "))]
    UnknownFunction {
        /// Requested function.
        asked: String,
        /// Functions of the model.
        available: Vec<String>,
    },
    /// Operations that the engine does not support.
    #[error("{} operation(s) not supported: {}", ops.len(), list(ops))]
    UnsupportedOps {
        /// All of them.
        ops: Vec<UnsupportedOp>,
    },
    /// Operations newer than the function's opset.
    #[error("{} operation(s) newer than opset {}: {}", ops.len(), opset.text_name(), newer(ops))]
    NewerOps {
        /// Opset of the function.
        opset: Opset,
        /// All of them.
        ops: Vec<NewerOp>,
    },
    /// The program uses a value before its definition.
    #[error("{place}: value `{value}` is not defined")]
    Undefined {
        /// Location of the use.
        place: OpLocation,
        /// Name of the value.
        value: String,
    },
    /// An operation failed at load or run time.
    #[error("{place}")]
    Op {
        /// Location.
        place: OpLocation,
        /// Cause.
        #[source]
        source: OpError,
    },
    /// An input of a prediction is missing.
    #[error("input `{name}` is missing; the function takes {}", expected.join(", "))]
    MissingInput {
        /// Input name.
        name: String,
        /// Inputs of the function.
        expected: Vec<String>,
    },
    /// An input has the wrong type or shape.
    #[error("input `{name}`: expected {expected}, found {found}")]
    BadInput {
        /// Input name.
        name: String,
        /// Expected type.
        expected: String,
        /// Given type.
        found: String,
    },
    /// A required state is missing or belongs to another model.
    #[error("state `{name}`: expected {expected}, found {found}")]
    BadState {
        /// State name.
        name: String,
        /// Expected state.
        expected: String,
        /// Given state.
        found: String,
    },
    /// An output cannot be returned as a tensor.
    #[error("output `{name}`: {message}")]
    BadOutput {
        /// Output name.
        name: String,
        /// Reason.
        message: String,
    },
}

impl EngineError {
    /// Stable name of the error kind; for a failed operation, that of its [`OpError`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnknownFunction { .. } => "unknown-function",
            Self::UnsupportedOps { .. } | Self::NewerOps { .. } => "unsupported",
            Self::Undefined { .. } => "undefined",
            Self::Op { source, .. } => source.kind(),
            Self::MissingInput { .. } | Self::BadInput { .. } => "input",
            Self::BadState { .. } => "state",
            Self::BadOutput { .. } => "output",
        }
    }
}

fn list(ops: &[UnsupportedOp]) -> String {
    ops.iter().map(|o| format!("{} `{}` in `{}`", o.kind, o.name, o.function)).collect::<Vec<_>>().join("; ")
}

fn newer(ops: &[NewerOp]) -> String {
    let one = |o: &NewerOp| {
        let (place, since) = (&o.place, o.since.text_name());
        format!("{} `{}` in `{}` (since {since})", place.kind, place.name, place.function)
    };
    ops.iter().map(one).collect::<Vec<_>>().join("; ")
}
