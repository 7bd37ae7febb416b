//! Executes a plan: one frame per prediction, one closure per step.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coreml_format::task;
use coreml_kernels::buffer_pool;

use crate::budget;
use crate::declared;
use crate::error::{EngineError, OpError, OpLocation};
use crate::frame::{Context, Frame, States};
use crate::liveness::BufferOwners;
use crate::planned::{BlockPlan, FunctionPlan, Step};
use crate::profile::Profile;
use crate::value::Value;

impl Frame<'_> {
    /// Runs a nested block and returns its outputs.
    ///
    /// # Errors
    /// Errors of its steps, or cancellation.
    pub fn run_block(&mut self, block: &BlockPlan, args: Vec<Value>) -> Result<Vec<Value>, OpError> {
        declared::check(&block.declared, &args)?;
        for (&var, value) in block.inputs.iter().zip(args) {
            self.set(var, value);
        }
        for step in &block.steps {
            let stopped = self.context.cancel.load(Ordering::Relaxed) || task::is_cancelled();
            if stopped || self.go_on.is_some_and(|go_on| !go_on()) {
                return Err(OpError::Cancelled);
            }
            let started = self.profile.is_some().then(web_time::Instant::now);
            let values = self.step(step).inspect_err(|_| {
                self.failed.get_or_insert(step.place);
            })?;
            if let (Some(profile), Some(started)) = (&mut self.profile, started) {
                profile.record(step.place, started.elapsed(), &values);
            }
            declared::check(&step.declared, &values).inspect_err(|_| {
                self.failed.get_or_insert(step.place);
            })?;
            if let Some(each) = self.each {
                each(step.place, &values);
            }
            if budget::in_loop() {
                let elements = values.iter().map(elements).fold(0usize, usize::saturating_add);
                budget::looped(budget::STEP.saturating_add(elements as u64)).inspect_err(|_| {
                    self.failed.get_or_insert(step.place);
                })?;
            }
            for (&var, value) in step.outputs.iter().zip(values) {
                self.set(var, value);
            }
            if let Some(owners) = &mut self.owners {
                let value = |&var: &u32| Some((var, self.vars.get(var as usize)?.as_ref()?));
                owners.step(step.outputs.iter().filter_map(value));
            }
            if budget::used().saturating_sub(self.counted) > self.context.limits.memory / 64 {
                self.count_memory().inspect_err(|_| {
                    self.failed.get_or_insert(step.place);
                })?;
            }
            for &var in &step.free {
                let freed = self.vars.get_mut(var as usize).and_then(Option::take);
                if let (Some(owners), Some(value)) = (&mut self.owners, freed) {
                    owners.free(var, &value);
                }
            }
        }
        block.outputs.iter().map(|&slot| self.value(slot).cloned()).collect()
    }

    /// Runs a step. If it runs out of memory, recounts and retries once: the count still includes memory freed since
    /// the last recount.
    fn step(&mut self, step: &Step) -> Result<Vec<Value>, OpError> {
        match (step.run)(self) {
            Err(OpError::TooMuchMemory { .. } | OpError::OutOfMemory { .. }) if self.failed.is_none() => {
                buffer_pool::release();
                self.count_memory()?;
                (step.run)(self)
            }
            done => done,
        }
    }

    /// Recounts the memory of all values (shared buffers once) and of the pool. Called after enough new bytes to
    /// amortise its cost.
    fn count_memory(&mut self) -> Result<(), OpError> {
        let (mut found, mut lists) = (Vec::new(), HashSet::new());
        self.vars.iter().flatten().for_each(|v| storages(v, &mut found, &mut lists));
        let bytes = once_each(&mut found);
        let limit = self.context.limits.memory;
        let mut kept = buffer_pool::kept().saturating_mul(size_of::<f32>());
        if bytes.saturating_add(kept) > limit {
            buffer_pool::release();
            kept = 0;
        }
        self.counted = bytes.saturating_add(kept);
        budget::set_used(self.counted);
        if bytes <= limit { Ok(()) } else { Err(OpError::TooMuchMemory { bytes: 0, used: bytes, limit }) }
    }
}

/// Who watches a prediction.
#[derive(Default)]
pub struct Watch<'a> {
    /// Sums the cost of its steps.
    pub profile: Option<&'a mut Profile>,
    /// Asked before every step, nested ones too, on the thread of the prediction; `false` ends it with
    /// [`OpError::Cancelled`].
    pub go_on: Option<&'a dyn Fn() -> bool>,
    /// Sees the results of every step, nested ones too, in the order in which they are computed. Their buffers are not
    /// reused then: results may be kept.
    pub each: Option<&'a dyn Fn(&OpLocation, &[Value])>,
}

/// True if a prediction can track all owners of its buffers: no nested block has values of its own, and no autograd
/// graph keeps tensors.
pub(crate) fn reuses(plan: &FunctionPlan, inputs: &[Value]) -> bool {
    let tracked = |v: &Value| matches!(v, Value::Array(a) if a.tensor().track_op());
    !plan.has_blocks && !inputs.iter().any(tracked)
}

/// Runs a function with `inputs` in the order of [`FunctionPlan::inputs`]. Returns its results and the owners of their
/// buffers.
pub(crate) fn run(
    plan: &FunctionPlan,
    inputs: Vec<Value>,
    states: Option<States<'_>>,
    context: &Context,
    watch: Watch<'_>,
    reuses: bool,
) -> Result<(Vec<Value>, BufferOwners), EngineError> {
    let each = watch.each.map(|each| {
        move |place: u32, values: &[Value]| {
            if let Some(place) = plan.places.get(place as usize) {
                each(place, values);
            }
        }
    });
    let mut frame = Frame::new(&plan.consts, plan.vars, context, states);
    frame.each = each.as_ref().map(|each| each as &dyn Fn(u32, &[Value]));
    frame.profile = watch.profile;
    frame.go_on = watch.go_on;
    frame.owners = reuses.then(BufferOwners::default);
    for (input, value) in plan.inputs.iter().zip(inputs) {
        frame.set(input.var, value);
    }
    frame.count_memory().map_err(|source| EngineError::Op { place: beside("inputs"), source })?;
    let results = frame.run_block(&plan.block, Vec::new()).map_err(|source| {
        let place = frame.failed.and_then(|p| plan.places.get(p as usize)).cloned();
        EngineError::Op { place: place.unwrap_or_else(|| beside("return")), source }
    })?;
    Ok((results, frame.owners.unwrap_or_default()))
}

/// The place of a failure that is no operation's.
fn beside(kind: &str) -> OpLocation {
    OpLocation { function: String::new(), kind: kind.to_owned(), name: String::new() }
}

/// One of several predictions that run together.
pub(crate) struct Row {
    /// Values of the inputs, in the order of [`FunctionPlan::inputs`].
    pub(crate) inputs: Vec<Value>,
    /// Index of its state. Rows of one state see what those before them write, operation by operation.
    pub(crate) state: usize,
}

/// Runs a function for several sets of inputs, step by step, so that a step may compute all of them at once. Returns their
/// results in order. Functions without states take no states.
///
/// # Errors
/// The first error of a step in any of them, or memory that one prediction would have.
pub(crate) fn run_rows<'a>(
    plan: &'a FunctionPlan,
    rows: Vec<Row>,
    states: Vec<States<'a>>,
    context: &'a Context,
) -> Result<Vec<Vec<Value>>, EngineError> {
    // States are lent to the frame whose step runs.
    let mut held: Vec<Option<States<'a>>> = states.into_iter().map(Some).collect();
    let owners: Vec<usize> = rows.iter().map(|row| row.state).collect();
    let frame = |row: Row| {
        let mut frame = Frame::new(&plan.consts, plan.vars, context, None);
        plan.inputs.iter().zip(row.inputs).for_each(|(input, value)| frame.set(input.var, value));
        frame
    };
    let mut frames: Vec<Frame<'a>> = rows.into_iter().map(frame).collect();
    for step in &plan.block.steps {
        let at = |source| {
            let place = plan.places.get(step.place as usize).cloned().unwrap_or_else(|| beside("rows"));
            EngineError::Op { place, source }
        };
        if context.cancel.load(Ordering::Relaxed) {
            return Err(at(OpError::Cancelled));
        }
        let together = step.rows.as_ref().map(|rows| rows(&frames)).transpose().map_err(at)?;
        let results = match together.flatten() {
            Some(results) => results,
            None => {
                let mut results = Vec::with_capacity(frames.len());
                for (frame, &owner) in frames.iter_mut().zip(&owners) {
                    frame.states = held.get_mut(owner).and_then(Option::take);
                    let values = (step.run)(frame);
                    if let (Some(place), Some(states)) = (held.get_mut(owner), frame.states.take()) {
                        *place = Some(states);
                    }
                    results.push(values.map_err(at)?);
                }
                results
            }
        };
        for (frame, values) in frames.iter_mut().zip(results) {
            declared::check(&step.declared, &values).map_err(at)?;
            step.outputs.iter().zip(values).for_each(|(&var, value)| frame.set(var, value));
            for &var in &step.free {
                frame.vars.get_mut(var as usize).map(Option::take);
            }
        }
    }
    let outputs = |frame: &Frame<'_>| plan.block.outputs.iter().map(|&slot| frame.value(slot).cloned()).collect();
    let outputs = frames.iter().map(outputs).collect::<Result<_, _>>();
    outputs.map_err(|source| EngineError::Op { place: beside("return"), source })
}

/// Number of elements of a value.
fn elements(value: &Value) -> usize {
    match value {
        Value::Array(array) => array.tensor().elem_count(),
        Value::Doubles(d) => d.data.len(),
        Value::List(items) => items.len(),
        _ => 0,
    }
}

/// Addresses and sizes in bytes of the allocations behind a value; views of one tensor share theirs.
fn storages(value: &Value, found: &mut Vec<(*const (), usize)>, lists: &mut HashSet<*const ()>) {
    match value {
        Value::Array(array) => {
            let (storage, layout) = array.tensor().storage_and_layout();
            // The size of a view's underlying buffer is unknown; this is the part up to its end.
            let extent = layout.dims().iter().zip(layout.stride()).map(|(n, s)| n.saturating_sub(1) * s).sum::<usize>();
            let bytes = (layout.start_offset() + extent + 1) * array.tensor().dtype().size_in_bytes();
            found.push(((&raw const *storage).cast(), bytes));
        }
        Value::Doubles(d) => found.push((Arc::as_ptr(d).cast(), size_of_val(d.data.as_slice()))),
        Value::List(items) => {
            let address = Arc::as_ptr(items).cast();
            if lists.insert(address) {
                found.push((address, items.len() * size_of::<Value>()));
                items.iter().for_each(|item| storages(item, found, lists));
            }
        }
        _ => {}
    }
}

/// Total size of all allocations, each at the largest size found for it.
fn once_each(found: &mut [(*const (), usize)]) -> usize {
    found.sort_unstable();
    let last = |(i, &(address, bytes)): (usize, &(*const (), usize))| {
        found.get(i + 1).is_none_or(|next| next.0 != address).then_some(bytes)
    };
    found.iter().enumerate().filter_map(last).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_one_allocation_count_once_with_the_largest() {
        let (a, b) = (0u8, 0u8);
        let (a, b) = ((&raw const a).cast(), (&raw const b).cast());
        assert_eq!(once_each(&mut [(a, 8), (b, 1), (a, 24), (a, 16)]), 25);
        assert_eq!(once_each(&mut []), 0);
    }
}
