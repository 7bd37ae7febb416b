//! `silu(a) · b`, the gate of a feed-forward layer, as one operation.

use coreml_format::program::{Argument, Binding, Function, Operation};

use super::graph::{Graph, name_of, replace};

fn matched(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "mul" {
        return None;
    }
    let (x, y) = (name_of(op, "x")?, name_of(op, "y")?);
    let gate = |name: &str| {
        let (_, silu) = graph.maker_of_kind(name, "silu")?;
        (graph.only_user(name)?.0 == i).then_some(name_of(silu, "x")?)
    };
    let (gate, other) = gate(x).map(|g| (g, y)).or_else(|| gate(y).map(|g| (g, x)))?;
    graph.declared(other).filter(|ty| ty.dtype.is_float())?;
    let mut new = op.clone();
    new.kind = "engine.silu_mul".to_owned();
    new.inputs.clear();
    for (name, value) in [("gate", gate), ("x", other)] {
        new.inputs.insert(name.to_owned(), Argument::One(Binding::Name(value.to_owned())));
    }
    Some(new)
}

pub(super) fn run(function: &mut Function) -> usize {
    replace(function, matched)
}
