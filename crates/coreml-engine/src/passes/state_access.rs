//! Restricts state accesses to the part that is read or changed.
//!
//! `read_state → slice_update → write_state` becomes one in-place update, and `read_state → slice_by_index` a read of
//! the slice. A read may move to its use only if nothing writes the state in between.

pub(super) mod op;

use std::collections::HashMap;

use coreml_format::program::{Argument, Binding, Block, Function, Operation};

use crate::graph::{Graph, name_of};
use crate::ops;
use crate::pass::Pass;
use op::{STATE_SHIFT, STATE_SLICE, STATE_UPDATE};

pub(super) const PASS: Pass =
    Pass { name: "state_access", after: &[], ops: &[STATE_SLICE, STATE_UPDATE, STATE_SHIFT], run };

/// The parameter that names the state an operation writes.
pub(super) fn written(op: &Operation) -> Option<&'static str> {
    let row = ops::states::OPS.iter().chain(PASS.ops).find(|row| row.name == op.kind)?;
    row.writes
}

/// True if nothing between two operations writes the state; for few questions, else [`Writes`].
pub(super) fn is_quiet(graph: &Graph<'_>, state: &str, from: usize, to: usize) -> bool {
    (from + 1..to).all(|i| {
        let op = graph.op(i);
        op.blocks.is_empty() && written(op).is_none_or(|parameter| name_of(op, parameter) != Some(state))
    })
}

/// Positions of state writes, in order.
#[derive(Default)]
struct Writes<'b> {
    by_state: HashMap<&'b str, Vec<usize>>,
    /// Operations with nested blocks, which may write any state.
    any: Vec<usize>,
}

impl<'b> Writes<'b> {
    fn new(block: &'b Block) -> Self {
        let mut all = Self::default();
        for (i, op) in block.operations.iter().enumerate() {
            match written(op) {
                Some(parameter) => {
                    if let Some(state) = name_of(op, parameter) {
                        all.by_state.entry(state).or_default().push(i);
                    }
                }
                None if op.blocks.is_empty() => {}
                None => all.any.push(i),
            }
        }
        all
    }

    /// True if nothing between two operations writes the state.
    fn quiet(&self, state: &str, from: usize, to: usize) -> bool {
        let none = |at: &[usize]| at.get(at.partition_point(|&i| i <= from)).is_none_or(|&next| next >= to);
        none(&self.any) && self.by_state.get(state).is_none_or(|at| none(at))
    }
}

enum Change {
    Replace(usize, Box<Operation>),
    Remove(usize),
}

/// Position and state of the `read_state` that produces a value.
fn read_of<'b>(graph: &Graph<'b>, value: &str) -> Option<(usize, &'b str)> {
    let (at, read) = graph.producer_of_kind(value, "read_state")?;
    Some((at, name_of(read, "input")?))
}

fn with_state(op: &Operation, kind: &str, state: &str) -> Operation {
    let mut new = op.clone();
    new.kind = kind.to_owned();
    new.inputs.shift_remove("x");
    new.inputs.insert("input".to_owned(), Argument::One(Binding::Name(state.to_owned())));
    new
}

fn update(graph: &Graph<'_>, writes: &Writes<'_>, i: usize) -> Option<[Change; 2]> {
    let op = graph.op(i);
    let read = name_of(op, "x")?;
    let (at, state) = read_of(graph, read)?;
    let result = &op.outputs.first()?.name;
    let (write, writer) = graph.only_user(result)?;
    let same = writer.kind == "write_state" && name_of(writer, "input") == Some(state);
    // All other uses of the old value must precede the write.
    let others = graph.users(read).iter().all(|&u| u < write) && !graph.returned(read);
    let strided = op.inputs.contains_key("stride") && !graph.numbers(op, "stride")?.iter().all(|&s| s == 1.0);
    // Conversion between integers and floats is left to the original operations.
    let alike = graph.type_of(op, "update")?.dtype.is_float() == graph.declared(state)?.dtype.is_float();
    if strided || !same || !others || !alike || !writes.quiet(state, at, write) {
        return None;
    }
    let mut new = with_state(op, STATE_UPDATE.name, state);
    new.outputs.clear();
    Some([Change::Remove(i), Change::Replace(write, Box::new(new))])
}

fn slice(graph: &Graph<'_>, writes: &Writes<'_>, i: usize) -> Option<Change> {
    let op = graph.op(i);
    let (at, state) = read_of(graph, name_of(op, "x")?)?;
    writes.quiet(state, at, i).then(|| Change::Replace(i, Box::new(with_state(op, STATE_SLICE.name, state))))
}

pub(super) fn run(function: &mut Function) -> usize {
    let graph = Graph::new(function);
    let writes = Writes::new(&function.block);
    let mut changes = Vec::new();
    for i in 0..function.block.operations.len() {
        match graph.op(i).kind.as_str() {
            "slice_update" => changes.extend(update(&graph, &writes, i).into_iter().flatten()),
            "slice_by_index" => changes.extend(slice(&graph, &writes, i)),
            _ => {}
        }
    }
    let count = changes.len();
    let mut remove = vec![false; function.block.operations.len()];
    for change in changes {
        match change {
            Change::Replace(i, op) => function.block.operations[i] = *op,
            Change::Remove(i) => remove[i] = true,
        }
    }
    let mut flags = remove.into_iter();
    function.block.operations.retain(|_| !flags.next().unwrap_or(false));
    count
}
