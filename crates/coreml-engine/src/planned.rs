//! A planned function: a flat list of steps, each a closure with its slots resolved.

use std::collections::HashSet;

use coreml_format::program::ValueType;

use crate::declared::Declared;
use crate::error::{OpError, OpLocation};
use crate::frame::{Frame, Slot};
use crate::state::StateSpec;
use crate::value::Value;

/// The closure of one operation.
pub type Run = Box<dyn Fn(&mut Frame<'_>) -> Result<Vec<Value>, OpError> + Send + Sync>;

/// Results of one operation in several predictions, in order; `None` where each has to be computed by itself.
pub(crate) type RowResults = Option<Vec<Vec<Value>>>;

/// The closure of one operation for several predictions at once.
pub(crate) type RunRows = Box<dyn Fn(&[Frame<'_>]) -> Result<RowResults, OpError> + Send + Sync>;

/// One operation, ready to run.
pub struct Step {
    pub(crate) run: Run,
    /// Computes several predictions at once, faster than one by one.
    pub(crate) rows: Option<RunRows>,
    pub(crate) outputs: Vec<u32>,
    /// Declared types of the outputs.
    pub(crate) declared: Vec<Declared>,
    /// Variables whose last use is this step.
    pub(crate) free: Vec<u32>,
    /// Index into [`FunctionPlan::places`].
    pub(crate) place: u32,
}

/// A planned block.
pub struct BlockPlan {
    /// Variables that store the block's parameters.
    pub(crate) inputs: Vec<u32>,
    /// Declared types of the parameters.
    pub(crate) declared: Vec<Declared>,
    pub(crate) steps: Vec<Step>,
    /// Slots of the block's results.
    pub(crate) outputs: Vec<Slot>,
    /// Variables of enclosing blocks that this block reads.
    pub(crate) captures: HashSet<u32>,
}

/// An input of a planned function.
#[derive(Debug, Clone)]
pub struct PlanInput {
    /// Name.
    pub name: String,
    /// Declared type.
    pub ty: ValueType,
    pub(crate) var: u32,
}

/// A planned function.
pub struct FunctionPlan {
    /// Inputs in order, excluding states.
    pub inputs: Vec<PlanInput>,
    /// States, in order.
    pub states: Vec<StateSpec>,
    /// Names of the outputs, in order.
    pub outputs: Vec<(String, Option<ValueType>)>,
    /// Location of each step in the program.
    pub places: Vec<OpLocation>,
    /// Stored weight bytes read by each step, in the order of `places`.
    pub weight_bytes: Vec<u64>,
    pub(crate) block: BlockPlan,
    /// True if some operation has nested blocks.
    pub(crate) has_blocks: bool,
    /// True if a step computes several predictions at once, and they do not depend on each other.
    pub(crate) takes_rows: bool,
    pub(crate) consts: Vec<Value>,
    pub(crate) vars: usize,
}
