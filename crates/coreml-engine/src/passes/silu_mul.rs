//! Fuses `silu(a) · b`, the gate of a feed-forward layer.

mod op;

use coreml_format::program::{Argument, Binding, Function, Operation};

use crate::graph::{Graph, name_of, replace};
use crate::pass::Pass;
use op::SILU_MUL;

pub(super) const PASS: Pass = Pass { name: "silu_mul", after: &[], ops: &[SILU_MUL], run };

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "mul" {
        return None;
    }
    let (x, y) = (name_of(op, "x")?, name_of(op, "y")?);
    let gate = |name: &str| {
        let (_, silu) = graph.producer_of_kind(name, "silu")?;
        (graph.only_user(name)?.0 == i).then_some(name_of(silu, "x")?)
    };
    let (gate, other) = gate(x).map(|g| (g, y)).or_else(|| gate(y).map(|g| (g, x)))?;
    graph.declared(other).filter(|ty| ty.dtype.is_float())?;
    let mut new = op.clone();
    new.kind = SILU_MUL.name.to_owned();
    new.inputs.clear();
    for (name, value) in [("gate", gate), ("x", other)] {
        new.inputs.insert(name.to_owned(), Argument::One(Binding::Name(value.to_owned())));
    }
    Some(new)
}

fn run(function: &mut Function) -> usize {
    replace(function, try_match)
}
