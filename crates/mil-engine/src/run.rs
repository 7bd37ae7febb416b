//! Executes a plan: one frame per prediction, one closure per step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;

use crate::build::Slot;
use crate::declared;
use crate::error::{EngineError, OpError, Place};
use crate::plan::{BlockPlan, FunctionPlan};
use crate::profile::Profile;
use crate::reuse::Holders;
use crate::state::{State, StateBuffer};
use crate::value::{Array, Value};

/// What a prediction runs in, shared by all its blocks.
#[derive(Debug, Clone)]
pub struct Context {
    /// Device of all tensors.
    pub device: Device,
    /// Stops the prediction at the next step when set.
    pub cancel: Arc<AtomicBool>,
    /// What a prediction may use up.
    pub limits: Limits,
}

impl Context {
    /// A context on this device that nobody cancels.
    pub fn new(device: Device, limits: Limits) -> Self {
        Self { device, cancel: Arc::default(), limits }
    }
}

/// What one prediction may use up, so that no program runs or grows without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rounds that all its loops may make together.
    pub rounds: usize,
    /// Bytes that its values may take at once; constants and states are not counted.
    pub memory: usize,
}

impl Default for Limits {
    /// 16 million rounds, 16 GiB.
    fn default() -> Self {
        Self { rounds: 1 << 24, memory: 1 << 34 }
    }
}

/// The values of one prediction.
pub struct Frame<'a> {
    consts: &'a [Value],
    vars: Vec<Option<Value>>,
    context: &'a Context,
    states: Option<States<'a>>,
    /// Place of the step that failed inside a nested block.
    failed: Option<u32>,
    profile: Option<&'a mut Profile>,
    /// Rounds of loops so far, and bytes set since memory was last counted.
    rounds: usize,
    unchecked: usize,
    /// Who holds memory that can be used again; none when nothing is.
    holders: Option<Holders>,
}

/// The state buffers of a prediction, in the order of the plan's states.
pub(crate) struct States<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) order: Vec<usize>,
}

impl<'a> Frame<'a> {
    pub(crate) fn new(consts: &'a [Value], vars: usize, context: &'a Context, states: Option<States<'a>>) -> Self {
        Self {
            consts,
            vars: vec![None; vars],
            context,
            states,
            failed: None,
            profile: None,
            rounds: 0,
            unchecked: 0,
            holders: None,
        }
    }

    /// The device of all tensors.
    pub fn device(&self) -> &'a Device {
        &self.context.device
    }

    /// The value in a slot.
    pub fn value(&self, slot: Slot) -> Result<&Value, OpError> {
        let value = match slot {
            Slot::Const(i) => self.consts.get(i as usize),
            Slot::Var(i) => self.vars.get(i as usize).and_then(Option::as_ref),
        };
        value.ok_or_else(|| OpError::data("a value is used before it is computed"))
    }

    /// The tensor in a slot; weights are expanded.
    pub fn array(&self, slot: Slot) -> Result<Array, OpError> {
        self.value(slot)?.array("input", &self.context.device)
    }

    /// The tensor in an optional slot.
    pub fn array_opt(&self, slot: Option<Slot>) -> Result<Option<Array>, OpError> {
        slot.map(|s| self.array(s)).transpose()
    }

    /// The state that a slot refers to.
    pub fn state(&mut self, slot: Slot) -> Result<&mut StateBuffer, OpError> {
        let index = match self.value(slot)? {
            Value::State(i) => *i,
            other => return Err(OpError::Kind { name: "input".to_owned(), expected: "a state", found: other.kind() }),
        };
        let states = self.states.as_mut().ok_or_else(|| OpError::data("the prediction has no state"))?;
        let position = states.order.get(index).copied();
        position.and_then(|p| states.state.buffer_at(p)).ok_or_else(|| OpError::data("the prediction lacks this state"))
    }

    /// Runs a nested block and returns its outputs.
    ///
    /// # Errors
    /// What its steps report, and cancellation.
    pub fn run_block(&mut self, block: &BlockPlan, args: Vec<Value>) -> Result<Vec<Value>, OpError> {
        declared::check(&block.declared, &args)?;
        for (&var, value) in block.inputs.iter().zip(args) {
            self.set(var, value);
        }
        for step in &block.steps {
            if self.context.cancel.load(Ordering::Relaxed) {
                return Err(OpError::Cancelled);
            }
            let started = self.profile.is_some().then(std::time::Instant::now);
            let values = (step.run)(self).inspect_err(|_| {
                self.failed.get_or_insert(step.place);
            })?;
            if let (Some(profile), Some(started)) = (&mut self.profile, started) {
                profile.record(step.place, started.elapsed(), &values);
            }
            declared::check(&step.declared, &values).inspect_err(|_| {
                self.failed.get_or_insert(step.place);
            })?;
            for (&var, value) in step.outputs.iter().zip(values) {
                self.set(var, value);
            }
            if let Some(holders) = &mut self.holders {
                let value = |&var: &u32| Some((var, self.vars.get(var as usize)?.as_ref()?));
                holders.step(step.outputs.iter().filter_map(value));
            }
            if self.unchecked > self.context.limits.memory / 64 {
                self.check_memory().inspect_err(|_| {
                    self.failed.get_or_insert(step.place);
                })?;
            }
            for &var in &step.free {
                let freed = self.vars.get_mut(var as usize).and_then(Option::take);
                if let (Some(holders), Some(value)) = (&mut self.holders, freed) {
                    holders.free(var, &value);
                }
            }
        }
        block.outputs.iter().map(|&slot| self.value(slot).cloned()).collect()
    }

    /// Counts a round of a loop.
    ///
    /// # Errors
    /// After as many as the limits allow.
    pub(crate) fn round(&mut self) -> Result<(), OpError> {
        self.rounds += 1;
        let most = self.context.limits.rounds;
        if self.rounds <= most {
            return Ok(());
        }
        Err(OpError::data(format!("loops of more than {most} rounds in one prediction")))
    }

    /// Counts the memory of all values, what they share once. Called after so many new bytes that it costs little.
    fn check_memory(&mut self) -> Result<(), OpError> {
        self.unchecked = 0;
        let mut seen = HashMap::new();
        self.vars.iter().flatten().for_each(|v| storages(v, &mut seen));
        let bytes = seen.values().fold(0usize, |sum, &n| sum.saturating_add(n));
        let limit = self.context.limits.memory;
        if bytes <= limit { Ok(()) } else { Err(OpError::TooMuchMemory { bytes, limit }) }
    }

    fn set(&mut self, var: u32, value: Value) {
        self.unchecked = self.unchecked.saturating_add(new_bytes(&value));
        if let Some(slot) = self.vars.get_mut(var as usize) {
            *slot = Some(value);
        }
    }
}

/// Whether a prediction knows of all who hold its memory: no nested block has values of its own, and no graph for
/// gradients keeps tensors.
pub(crate) fn reuses(plan: &FunctionPlan, inputs: &[Value]) -> bool {
    let tracked = |v: &Value| matches!(v, Value::Array(a) if a.tensor().track_op());
    !plan.has_blocks && !inputs.iter().any(tracked)
}

/// Runs a function: `inputs` in the order of [`FunctionPlan::inputs`]. Returns its results and who holds their memory.
pub(crate) fn run(
    plan: &FunctionPlan,
    inputs: Vec<Value>,
    states: Option<States<'_>>,
    context: &Context,
    profile: Option<&mut Profile>,
    reuses: bool,
) -> Result<(Vec<Value>, Holders), EngineError> {
    let mut frame = Frame::new(&plan.consts, plan.vars, context, states);
    frame.profile = profile;
    frame.holders = reuses.then(Holders::default);
    for (input, value) in plan.inputs.iter().zip(inputs) {
        frame.set(input.var, value);
    }
    let results = frame.run_block(&plan.block, Vec::new()).map_err(|source| {
        let place = frame.failed.and_then(|p| plan.places.get(p as usize)).cloned();
        let place =
            place.unwrap_or_else(|| Place { function: String::new(), kind: "return".to_owned(), name: String::new() });
        EngineError::Op { place, source }
    })?;
    Ok((results, frame.holders.unwrap_or_default()))
}

/// Most bytes that a step can have allocated for its result.
fn new_bytes(value: &Value) -> usize {
    match value {
        Value::Array(array) => array.bytes(),
        Value::List(items) => items.len().saturating_mul(size_of::<Value>()),
        _ => 0,
    }
}

/// Allocations behind a value by address: views of one tensor share theirs.
fn storages(value: &Value, seen: &mut HashMap<*const (), usize>) {
    match value {
        Value::Array(array) => {
            let (storage, layout) = array.tensor().storage_and_layout();
            // A view may lie anywhere in what it keeps alive; its own part is what can be told.
            let extent = layout.dims().iter().zip(layout.stride()).map(|(n, s)| n.saturating_sub(1) * s).sum::<usize>();
            let bytes = (layout.start_offset() + extent + 1) * array.tensor().dtype().size_in_bytes();
            let known = seen.entry((&raw const *storage).cast()).or_default();
            *known = bytes.max(*known);
        }
        Value::List(items) => {
            let address = Arc::as_ptr(items).cast();
            if seen.insert(address, items.len() * size_of::<Value>()).is_none() {
                items.iter().for_each(|item| storages(item, seen));
            }
        }
        _ => {}
    }
}
