//! Buffer liveness: tracks the variables that own each buffer and recycles it with the last one (see
//! [`coreml_kernels::buffer_pool`]).
//!
//! Views share their tensor's buffer, and Candle cannot report other owners. A prediction can: what a step allocated is
//! either part of its results or dropped, so a buffer owned only by variables is free when the last of them is freed. A
//! buffer that escapes the variables (into a list, or as a result of the function) is never recycled, and a function
//! with nested blocks, whose values also live elsewhere, recycles nothing.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use candle_core::Tensor;
use coreml_kernels::buffer_pool;

use crate::recycle::{address, take_memory};
use crate::value::Value;

/// A map keyed by addresses and variable numbers. The keys are not attacker-controlled: one multiplication hashes them.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        let spread = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Low bits select the bucket, and those of an aligned address are zero.
        self.0 = spread ^ spread >> 32;
    }
}

/// Owners of the buffers allocated by the steps of a prediction.
#[derive(Default)]
pub(crate) struct BufferOwners {
    /// Number of owning variables, by buffer address.
    counts: Map<usize, usize>,
    /// Buffer address of each tracked variable.
    held: Map<u32, usize>,
    /// Buffers of the last step's results.
    results: Vec<(u32, usize)>,
}

impl BufferOwners {
    /// Registers the results of a step.
    pub(crate) fn step<'v>(&mut self, results: impl Iterator<Item = (u32, &'v Value)>) {
        // Results outside the pool, such as all small ones, need no owner.
        if self.counts.is_empty() && !buffer_pool::has_made() {
            return;
        }
        self.results.clear();
        for (var, value) in results {
            match value {
                Value::Array(array) => self.results.extend(address(array.tensor()).map(|at| (var, at))),
                other => self.untrack(other),
            }
        }
        let Self { counts, held, results } = self;
        buffer_pool::settle(|made| {
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

    /// Recycles the buffer of a freed variable if it was the last owner.
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

    /// Recycles the buffer of a result that is returned as a different tensor, if nothing else owns it.
    pub(crate) fn release_output(&mut self, result: &Value, tensor: Option<&Tensor>) {
        let (Value::Array(array), Some(tensor)) = (result, tensor) else { return };
        let at = address(array.tensor());
        if at != address(tensor) && at.and_then(|at| self.counts.remove(&at)) == Some(1) {
            take_memory(array.tensor());
        }
    }

    /// Stops tracking values in lists and dictionaries, whose owners are not counted.
    fn untrack(&mut self, value: &Value) {
        match value {
            Value::Array(array) => {
                if let Some(at) = address(array.tensor()) {
                    self.counts.remove(&at);
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.untrack(item)),
            Value::Dictionary(entries) => entries.iter().for_each(|(k, v)| {
                self.untrack(k);
                self.untrack(v);
            }),
            Value::Weight(_) | Value::Doubles(_) | Value::Strings(_) | Value::State(_) => {}
        }
    }
}
