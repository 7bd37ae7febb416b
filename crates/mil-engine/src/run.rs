//! Executes a plan: one frame per prediction, one closure per step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use mil_kernels::fresh;

use crate::budget;
use crate::build::Slot;
use crate::declared;
use crate::error::{EngineError, OpError, Place};
use crate::plan::{BlockPlan, FunctionPlan, Step};
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

/// What one prediction may use up, so that no program runs or grows without bound. Each is an error by name, with the
/// operation, what was wanted, and the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rounds that all its loops may make together.
    pub rounds: usize,
    /// Bytes that its values and the temporaries of its operations may take at once. Constants as stored and states are
    /// not among them: what loading makes of constants is counted by itself against the same limit, and so are states.
    pub memory: usize,
    /// Work of one operation, in elements that are made; 32 products that are summed are as much as an element. About a
    /// nanosecond each, on one core.
    pub operation_work: u64,
    /// Work of all its loops together, in the same unit; each step in a loop, and each round, has 1000 beside its elements
    /// and products.
    pub loop_work: u64,
}

impl Default for Limits {
    /// 16 million rounds; three quarters of the memory that this process may have, 16 GiB where the system does not say;
    /// 2³⁹ for one operation, which are 1.8 · 10¹³ products; 2³² for loops, a few seconds. `CANDLE_COREML_MEMORY` (in bytes,
    /// or as `6G`) and `CANDLE_COREML_LOOP_WORK` in the environment replace the memory and the work of loops.
    fn default() -> Self {
        let known = crate::machine::memory().map_or(1 << 34, |all| all / 4 * 3);
        let named = |name: &str| std::env::var(name).ok().and_then(|text| amount(&text));
        Self {
            rounds: 1 << 24,
            memory: named(MEMORY).and_then(|n| usize::try_from(n).ok()).unwrap_or(known),
            operation_work: 1 << 39,
            loop_work: named(LOOP_WORK).unwrap_or(1 << 32),
        }
    }
}

/// Variables of the environment that limits are taken from.
const MEMORY: &str = "CANDLE_COREML_MEMORY";
const LOOP_WORK: &str = "CANDLE_COREML_LOOP_WORK";

/// A number, also of kibi, mebi, gibi and tebi: `6G`.
fn amount(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = ["K", "M", "G", "T"].iter().position(|unit| text.ends_with(unit));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    digits.parse::<u64>().ok()?.checked_mul(1 << (10 * unit.map_or(0, |power| power + 1)))
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
    /// Rounds of loops so far, and bytes in use when they were last counted.
    rounds: usize,
    counted: usize,
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
            counted: 0,
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
            let values = self.step(step).inspect_err(|_| {
                self.failed.get_or_insert(step.place);
            })?;
            if let (Some(profile), Some(started)) = (&mut self.profile, started) {
                profile.record(step.place, started.elapsed(), &values);
            }
            declared::check(&step.declared, &values).inspect_err(|_| {
                self.failed.get_or_insert(step.place);
            })?;
            if budget::in_loop() {
                let elements = values.iter().map(elements).fold(0usize, usize::saturating_add);
                budget::looped(budget::STEP.saturating_add(elements as u64)).inspect_err(|_| {
                    self.failed.get_or_insert(step.place);
                })?;
            }
            for (&var, value) in step.outputs.iter().zip(values) {
                self.set(var, value);
            }
            if let Some(holders) = &mut self.holders {
                let value = |&var: &u32| Some((var, self.vars.get(var as usize)?.as_ref()?));
                holders.step(step.outputs.iter().filter_map(value));
            }
            if budget::used().saturating_sub(self.counted) > self.context.limits.memory / 64 {
                self.count_memory().inspect_err(|_| {
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
        budget::looped(budget::STEP)?;
        let most = self.context.limits.rounds;
        if self.rounds <= most {
            return Ok(());
        }
        Err(OpError::data(format!("loops of more than {most} rounds in one prediction")))
    }

    /// Runs a step. When memory lacks, it is counted anew and the step is run again, once: what was freed since the last
    /// count is still in it.
    fn step(&mut self, step: &Step) -> Result<Vec<Value>, OpError> {
        match (step.run)(self) {
            Err(OpError::TooMuchMemory { .. } | OpError::OutOfMemory { .. }) if self.failed.is_none() => {
                fresh::release();
                self.count_memory()?;
                (step.run)(self)
            }
            done => done,
        }
    }

    /// Counts the memory of all values, what they share once, and what is kept to be used again. Called after so many new
    /// bytes that it costs little.
    fn count_memory(&mut self) -> Result<(), OpError> {
        let mut seen = HashMap::new();
        self.vars.iter().flatten().for_each(|v| storages(v, &mut seen));
        let bytes = seen.values().fold(0usize, |sum, &n| sum.saturating_add(n));
        let limit = self.context.limits.memory;
        let mut kept = fresh::kept().saturating_mul(size_of::<f32>());
        if bytes.saturating_add(kept) > limit {
            fresh::release();
            kept = 0;
        }
        self.counted = bytes.saturating_add(kept);
        budget::set_used(self.counted);
        if bytes <= limit { Ok(()) } else { Err(OpError::TooMuchMemory { bytes: 0, used: bytes, limit }) }
    }

    fn set(&mut self, var: u32, value: Value) {
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
    let named = |source| EngineError::Op {
        place: Place { function: String::new(), kind: "inputs".to_owned(), name: String::new() },
        source,
    };
    frame.count_memory().map_err(named)?;
    let results = frame.run_block(&plan.block, Vec::new()).map_err(|source| {
        let place = frame.failed.and_then(|p| plan.places.get(p as usize)).cloned();
        let place =
            place.unwrap_or_else(|| Place { function: String::new(), kind: "return".to_owned(), name: String::new() });
        EngineError::Op { place, source }
    })?;
    Ok((results, frame.holders.unwrap_or_default()))
}

/// Elements that a value is made of.
fn elements(value: &Value) -> usize {
    match value {
        Value::Array(array) => array.tensor().elem_count(),
        Value::List(items) => items.len(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!(["17", " 2K ", "3M", "6G", "1T"].map(amount), [17, 2 << 10, 3 << 20, 6 << 30, 1 << 40].map(Some));
        assert_eq!(["", "G", "-1", "1.5G", "6GB", "99999999999T"].map(amount), [None; 6]);
    }

    #[test]
    fn limits_follow_the_memory_of_the_machine() {
        let Some(all) = crate::machine::memory() else { return };
        if std::env::var_os(MEMORY).is_none() {
            assert!(Limits::default().memory <= all && Limits::default().memory >= all / 2);
        }
    }
}
