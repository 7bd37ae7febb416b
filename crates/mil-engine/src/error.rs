//! Errors of the engine. An operation says what is wrong ([`OpError`]); the planner and the executor
//! add where ([`EngineError`]).

use coreml_format::blob::BlobError;
use coreml_format::program::Opset;

/// What is wrong with one operation. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A required parameter is not bound.
    #[error("parameter \"{0}\" is missing")]
    Missing(String),
    /// A parameter is bound to a value of another kind.
    #[error("parameter \"{name}\": expected {expected}, found {found}")]
    Kind {
        /// Parameter.
        name: String,
        /// What the operation takes.
        expected: &'static str,
        /// What is bound.
        found: String,
    },
    /// Shapes that do not fit the operation or each other.
    #[error("{0}")]
    Shape(String),
    /// An attribute value that the operation does not define.
    #[error("{name} = \"{value}\" is not one of the values that the operation defines ({expected})")]
    Attribute {
        /// Attribute.
        name: String,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A parameter that the operation does not have in the opset of its function, or not beside its other parameters.
    #[error("parameter \"{name}\" is not one that the operation takes here (opset {opset})")]
    UnknownParameter {
        /// Parameter.
        name: String,
        /// Opset of the function.
        opset: &'static str,
    },
    /// A value whose element type or shape contradicts what the program declares about it.
    #[error("\"{name}\" is declared as {expected}, found {found}")]
    Declared {
        /// Value.
        name: String,
        /// Its declared type.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Input data that the operation rejects, such as an index out of range.
    #[error("{0}")]
    Data(String),
    /// A result beyond the limits set for one value.
    #[error("a result of shape {shape:?} exceeds the limit of {limit} elements")]
    TooLarge {
        /// Shape of the result.
        shape: Vec<usize>,
        /// Largest number of elements allowed.
        limit: usize,
    },
    /// Memory beyond the limit of a prediction, or of loading.
    #[error("needs {bytes} bytes beside the {used} in use; the limit is {limit} bytes")]
    TooMuchMemory {
        /// Bytes that were wanted.
        bytes: usize,
        /// Bytes that were in use.
        used: usize,
        /// Most bytes allowed ([`Limits::memory`](crate::Limits::memory)).
        limit: usize,
    },
    /// Memory within the limit that the system does not give.
    #[error("{bytes} bytes can't be allocated")]
    OutOfMemory {
        /// Bytes that were wanted.
        bytes: usize,
    },
    /// More work than one operation, or all loops of a prediction, may have.
    #[error(
        "{} beyond the limit of work: {work} elements or 32 times as many products; the limit is {limit}",
        if *loops { "loops go on" } else { "the operation is" }
    )]
    TooMuchWork {
        /// Work that was asked for.
        work: u64,
        /// Most allowed ([`Limits::operation_work`](crate::Limits::operation_work), or
        /// [`Limits::loop_work`](crate::Limits::loop_work)).
        limit: u64,
        /// Whether it is the work of loops.
        loops: bool,
    },
    /// A valid program that asks for something this engine does not do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The prediction was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A weight can't be read.
    #[error("a weight can't be read")]
    Blob(#[from] BlobError),
    /// Candle reports a failure.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}

impl OpError {
    /// Stable name of the kind of error.
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

/// Where in a program an error lies.
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
        write!(f, "function \"{}\": op \"{}\" ({})", self.function, self.name, self.kind)
    }
}

/// An operation type that the engine lacks, and where it stands.
pub type UnsupportedOp = OpLocation;

/// An operation that a later opset than that of its function introduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerOp {
    /// Where it stands.
    pub place: OpLocation,
    /// The opset that introduced it.
    pub since: Opset,
}

/// Why a program can't be loaded or run. Match on [`kind`](Self::kind) or on the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The function does not exist.
    #[error("no function \"{asked}\"; the model has {}", available.join(", "))]
    UnknownFunction {
        /// Function that was asked for.
        asked: String,
        /// Functions of the model.
        available: Vec<String>,
    },
    /// Operations that the engine does not have: all of them.
    #[error("{} operation(s) not supported: {}", ops.len(), list(ops))]
    UnsupportedOps {
        /// Each of them.
        ops: Vec<UnsupportedOp>,
    },
    /// Operations that the opset of the function does not have yet: all of them.
    #[error("{} operation(s) newer than opset {}: {}", ops.len(), opset.text_name(), newer(ops))]
    NewerOps {
        /// Opset of the function.
        opset: Opset,
        /// Each of them.
        ops: Vec<NewerOp>,
    },
    /// The program refers to a value that is not defined before it.
    #[error("{place}: value \"{value}\" is not defined")]
    Undefined {
        /// Where.
        place: OpLocation,
        /// Name of the value.
        value: String,
    },
    /// An operation failed, at load or at run time.
    #[error("{place}")]
    Op {
        /// Where.
        place: OpLocation,
        /// What.
        #[source]
        source: OpError,
    },
    /// An input of a prediction is missing.
    #[error("input \"{name}\" is missing; the function takes {}", expected.join(", "))]
    MissingInput {
        /// Input.
        name: String,
        /// Inputs of the function.
        expected: Vec<String>,
    },
    /// An input of a prediction does not fit.
    #[error("input \"{name}\": expected {expected}, found {found}")]
    BadInput {
        /// Input.
        name: String,
        /// What the function takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The function has states, but none was given, or the state belongs to another model.
    #[error("state \"{name}\": expected {expected}, found {found}")]
    BadState {
        /// State.
        name: String,
        /// What the function needs.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An output can't be returned as a tensor.
    #[error("output \"{name}\": {message}")]
    BadOutput {
        /// Output.
        name: String,
        /// Why.
        message: String,
    },
}

impl EngineError {
    /// Stable name of the kind of error; an operation's failure has the kind of its [`OpError`].
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
    ops.iter().map(|o| format!("{} \"{}\" in \"{}\"", o.kind, o.name, o.function)).collect::<Vec<_>>().join("; ")
}

fn newer(ops: &[NewerOp]) -> String {
    let one = |o: &NewerOp| {
        let (place, since) = (&o.place, o.since.text_name());
        format!("{} \"{}\" in \"{}\" (since {since})", place.kind, place.name, place.function)
    };
    ops.iter().map(one).collect::<Vec<_>>().join("; ")
}
