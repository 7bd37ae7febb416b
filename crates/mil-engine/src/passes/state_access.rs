//! Touches only the part of a state that changes or is read.
//!
//! `read_state → slice_update → write_state` becomes one in-place update, and `read_state → slice_by_index`
//! a read of the slice. A read may move to where it is used only if nothing writes the state in between.

pub(super) mod op;

use std::collections::HashMap;

use coreml_format::program::{Argument, Binding, Block, Function, Operation};

use crate::graph::{Graph, name_of};
use crate::ops;
use crate::pass::Pass;
use op::{STATE_SLICE, STATE_UPDATE};

pub(super) const PASS: Pass = Pass { name: "state_access", after: &[], ops: &[STATE_SLICE, STATE_UPDATE], run };

/// The parameter of an operation that names the state which it writes.
pub(super) fn written(op: &Operation) -> Option<&'static str> {
    let row = ops::states::OPS.iter().chain(PASS.ops).find(|row| row.name == op.kind)?;
    row.writes
}

/// Where states are written, in order.
#[derive(Default)]
struct Writes<'b> {
    by_state: HashMap<&'b str, Vec<usize>>,
    /// Operations with nested blocks, which may do anything.
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

    /// Whether nothing between two operations writes the state.
    fn quiet(&self, state: &str, from: usize, to: usize) -> bool {
        let none = |at: &[usize]| at.get(at.partition_point(|&i| i <= from)).is_none_or(|&next| next >= to);
        none(&self.any) && self.by_state.get(state).is_none_or(|at| none(at))
    }
}

enum Change {
    Replace(usize, Box<Operation>),
    Remove(usize),
}

/// The state that a `read_state` reads, and where.
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
    // Whoever else uses the old value must do so before the write.
    let others = graph.users(read).iter().all(|&u| u < write) && !graph.returned(read);
    let strided = op.inputs.contains_key("stride") && !graph.numbers(op, "stride")?.iter().all(|&s| s == 1.0);
    // An update of another kind of number is converted by the operation that the program has.
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
