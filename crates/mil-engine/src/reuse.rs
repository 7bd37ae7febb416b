//! Memory of values that nobody needs any more, for values to come (see [`mil_kernels::fresh`]).
//!
//! Views share their tensor's memory, and Candle does not tell who else has it. A prediction knows: what a step made is
//! among its results, or gone; and what only variables hold is free when the last of them is freed. Whatever leaves the
//! variables (in a list, as a result of the function) is not taken back, and functions with nested blocks, whose values
//! also live elsewhere, take nothing back.

use std::cell::Cell;
use std::collections::HashMap;

use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor};
use mil_kernels::fresh;

use crate::value::Value;

/// Which variables hold the memory that the steps of a prediction made.
#[derive(Default)]
pub(crate) struct Holders {
    /// Variables that hold the memory at an address.
    counts: HashMap<usize, usize>,
    /// Address of the memory that a variable holds, if it is counted.
    held: HashMap<u32, usize>,
    /// Of the results of the last step.
    results: Vec<(u32, usize)>,
}

impl Holders {
    /// Learns what a step has set.
    pub(crate) fn step<'v>(&mut self, results: impl Iterator<Item = (u32, &'v Value)>) {
        self.results.clear();
        for (var, value) in results {
            match value {
                Value::Array(array) => self.results.extend(address(array.tensor()).map(|at| (var, at))),
                other => self.forget(other),
            }
        }
        let Self { counts, held, results } = self;
        fresh::settle(|made| {
            let lives = results.iter().any(|&(_, at)| at == made);
            if lives {
                counts.insert(made, 0);
            }
            lives
        });
        if counts.is_empty() {
            return;
        }
        for &(var, at) in &*results {
            if let Some(count) = counts.get_mut(&at) {
                *count += 1;
                held.insert(var, at);
            }
        }
    }

    /// Takes the memory of a variable that is freed, if no other one holds it.
    pub(crate) fn free(&mut self, var: u32, value: &Value) {
        let Some(at) = self.held.remove(&var) else { return };
        let Some(count) = self.counts.get_mut(&at) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&at);
            if let Value::Array(array) = value {
                take_memory(array.tensor());
            }
        }
    }

    /// Takes the memory of a result that leaves as another tensor, if nothing else holds it.
    pub(crate) fn leave(&mut self, result: &Value, tensor: Option<&Tensor>) {
        let (Value::Array(array), Some(tensor)) = (result, tensor) else { return };
        let at = address(array.tensor());
        if at != address(tensor) && at.and_then(|at| self.counts.remove(&at)) == Some(1) {
            take_memory(array.tensor());
        }
    }

    /// What is in a list or dictionary has holders that are not counted.
    fn forget(&mut self, value: &Value) {
        match value {
            Value::Array(array) => {
                if let Some(at) = address(array.tensor()) {
                    self.counts.remove(&at);
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.forget(item)),
            Value::Dictionary(entries) => entries.iter().for_each(|(k, v)| {
                self.forget(k);
                self.forget(v);
            }),
            Value::Weight(_) | Value::Strings(_) | Value::State(_) => {}
        }
    }
}

/// Where the memory of a tensor begins, whichever part of it the tensor is; none if results are not made of such memory.
fn address(tensor: &Tensor) -> Option<usize> {
    match &*tensor.storage_and_layout().0 {
        Storage::Cpu(CpuStorage::F32(data)) => Some(data.as_ptr() as usize),
        _ => None,
    }
}

/// Drops a copy that an operation made of a tensor for itself, or another handle to the same memory.
pub(crate) fn drop_copy(copy: &Tensor, of: &Tensor) {
    if address(copy) != address(of) {
        take_memory(copy);
    }
}

/// Leaves a tensor that is about to be dropped, as are all that share its memory, without it.
fn take_memory(tensor: &Tensor) {
    struct Take(Cell<Vec<f32>>);
    impl InplaceOp1 for Take {
        fn name(&self) -> &'static str {
            "take-memory"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
            if let CpuStorage::F32(data) = storage {
                self.0.set(std::mem::take(data));
            }
            Ok(())
        }
    }
    let take = Take(Cell::default());
    if tensor.inplace_op1(&take).is_ok() {
        fresh::give_back(take.0.into_inner());
    }
}
