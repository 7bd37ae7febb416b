//! Executes a plan: one frame per prediction, one closure per step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;

use crate::build::Slot;
use crate::error::{EngineError, OpError, Place};
use crate::plan::{BlockPlan, FunctionPlan};
use crate::profile::Profile;
use crate::state::{State, StateBuffer};
use crate::value::{Array, Value};

/// What a prediction runs in, shared by all its blocks.
#[derive(Debug, Clone)]
pub struct Context {
    /// Device of all tensors.
    pub device: Device,
    /// Stops the prediction at the next step when set.
    pub cancel: Arc<AtomicBool>,
}

impl Context {
    /// A context on this device that nobody cancels.
    pub fn new(device: Device) -> Self {
        Self { device, cancel: Arc::default() }
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
}

/// The state buffers of a prediction, in the order of the plan's states.
pub(crate) struct States<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) order: Vec<usize>,
}

impl<'a> Frame<'a> {
    pub(crate) fn new(consts: &'a [Value], vars: usize, context: &'a Context, states: Option<States<'a>>) -> Self {
        Self { consts, vars: vec![None; vars], context, states, failed: None, profile: None }
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
        if args.len() != block.inputs.len() {
            return Err(OpError::shape(format!(
                "block takes {} values but is given {}",
                block.inputs.len(),
                args.len()
            )));
        }
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
            if values.len() != step.outputs.len() {
                self.failed.get_or_insert(step.place);
                return Err(OpError::shape(format!(
                    "declares {} outputs but has {}",
                    step.outputs.len(),
                    values.len()
                )));
            }
            for (&var, value) in step.outputs.iter().zip(values) {
                self.set(var, value);
            }
            for &var in &step.free {
                if let Some(slot) = self.vars.get_mut(var as usize) {
                    *slot = None;
                }
            }
        }
        block.outputs.iter().map(|&slot| self.value(slot).cloned()).collect()
    }

    fn set(&mut self, var: u32, value: Value) {
        if let Some(slot) = self.vars.get_mut(var as usize) {
            *slot = Some(value);
        }
    }
}

/// Runs a function: `inputs` in the order of [`FunctionPlan::inputs`].
pub(crate) fn run(
    plan: &FunctionPlan,
    inputs: Vec<Value>,
    states: Option<States<'_>>,
    context: &Context,
    profile: Option<&mut Profile>,
) -> Result<Vec<Value>, EngineError> {
    let mut frame = Frame::new(&plan.consts, plan.vars, context, states);
    frame.profile = profile;
    for (input, value) in plan.inputs.iter().zip(inputs) {
        frame.set(input.var, value);
    }
    frame.run_block(&plan.block, Vec::new()).map_err(|source| {
        let place = frame.failed.and_then(|p| plan.places.get(p as usize)).cloned();
        let place =
            place.unwrap_or_else(|| Place { function: String::new(), kind: "return".to_owned(), name: String::new() });
        EngineError::Op { place, source }
    })
}
