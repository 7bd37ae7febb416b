//! Values of one prediction (constants, variables, states) and its resource use.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::Device;

use crate::array::Array;
use crate::budget;
use crate::error::OpError;
use crate::kept::Kept;
use crate::limits::Limits;
use crate::liveness::BufferOwners;
use crate::profile::Profile;
use crate::state::{State, StateBuffer};
use crate::value::Value;

/// Location of a value at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// A constant of the plan.
    Const(u32),
    /// A variable of the frame.
    Var(u32),
}

/// Environment of a prediction, shared by all its blocks.
#[derive(Debug, Clone)]
pub struct Context {
    /// Device of all tensors.
    pub device: Device,
    /// Set to stop the prediction at the next step.
    pub cancel: Arc<AtomicBool>,
    /// Limits of the prediction.
    pub limits: Limits,
    /// Room for forms of constants that are made once: a quarter of [`Limits::memory`].
    pub(crate) kept: Arc<Kept>,
}

impl Context {
    /// A context that is never cancelled.
    pub fn new(device: Device, limits: Limits) -> Self {
        Self { device, cancel: Arc::default(), limits, kept: Arc::new(Kept::new(limits.memory / 4)) }
    }
}

/// The values of one prediction.
pub struct Frame<'a> {
    pub(crate) consts: &'a [Value],
    pub(crate) vars: Vec<Option<Value>>,
    pub(crate) context: &'a Context,
    pub(crate) states: Option<States<'a>>,
    /// Location index of the step that failed in a nested block.
    pub(crate) failed: Option<u32>,
    pub(crate) profile: Option<&'a mut Profile>,
    /// Asked before every step, on the thread of the prediction; `false` stops it.
    pub(crate) go_on: Option<&'a dyn Fn() -> bool>,
    /// Sees the results of every step.
    pub(crate) each: Option<&'a dyn Fn(u32, &[Value])>,
    /// Loop rounds so far, and bytes in use at the last count.
    rounds: usize,
    pub(crate) counted: usize,
    /// Owners of reusable buffers; `None` if buffers are not reused.
    pub(crate) owners: Option<BufferOwners>,
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
            go_on: None,
            each: None,
            rounds: 0,
            counted: 0,
            owners: None,
        }
    }

    /// Device of all tensors.
    pub fn device(&self) -> &'a Device {
        &self.context.device
    }

    /// Returns the value in a slot.
    pub fn value(&self, slot: Slot) -> Result<&Value, OpError> {
        let value = match slot {
            Slot::Const(i) => self.consts.get(i as usize),
            Slot::Var(i) => self.vars.get(i as usize).and_then(Option::as_ref),
        };
        value.ok_or_else(|| OpError::data("a value is used before it is computed"))
    }

    /// Returns the tensor in a slot; weights are expanded, constant ones once.
    pub fn array(&self, slot: Slot) -> Result<Array, OpError> {
        match (slot, self.value(slot)?) {
            (Slot::Const(_), Value::Weight(weight)) => weight.expand_once(&self.context.device, &self.context.kept),
            (_, value) => value.array("input", &self.context.device),
        }
    }

    /// Returns the tensor in an optional slot.
    pub fn array_opt(&self, slot: Option<Slot>) -> Result<Option<Array>, OpError> {
        slot.map(|s| self.array(s)).transpose()
    }

    /// Returns the state that a slot refers to.
    pub fn state(&mut self, slot: Slot) -> Result<&mut StateBuffer, OpError> {
        let index = match self.value(slot)? {
            Value::State(i) => *i,
            other => return Err(OpError::Kind { name: "input".to_owned(), expected: "a state", found: other.kind() }),
        };
        let states = self.states.as_mut().ok_or_else(|| OpError::data("the prediction has no state"))?;
        let position = states.order.get(index).copied();
        position.and_then(|p| states.state.buffer_at(p)).ok_or_else(|| OpError::data("the prediction lacks this state"))
    }

    /// Counts one loop round.
    ///
    /// # Errors
    /// If the limit on rounds is reached.
    pub(crate) fn round(&mut self) -> Result<(), OpError> {
        self.rounds += 1;
        budget::looped(budget::STEP)?;
        let most = self.context.limits.rounds;
        if self.rounds <= most {
            return Ok(());
        }
        Err(OpError::data(format!("loops of more than {most} rounds in one prediction")))
    }

    pub(crate) fn set(&mut self, var: u32, value: Value) {
        if let Some(slot) = self.vars.get_mut(var as usize) {
            *slot = Some(value);
        }
    }
}
