//! Softmax written out: `exp(x − max) / Σ exp(x − max)` along one axis.

use coreml_format::program::{Argument, Binding, Function, Operation};

use super::graph::{Graph, name_of, replace};

/// The operation that replaces `op`, if it is the division at the end of a softmax.
fn matched(graph: &Graph<'_>, op: &Operation) -> Option<Operation> {
    if op.kind != "real_div" {
        return None;
    }
    let exp_name = name_of(op, "x")?;
    let (_, exp) = graph.maker_of_kind(exp_name, "exp")?;
    let (_, sum) = graph.maker_of_kind(name_of(op, "y")?, "reduce_sum")?;
    let (_, sub) = graph.maker_of_kind(name_of(exp, "x")?, "sub")?;
    let x = name_of(sub, "x")?;
    let (_, max) = graph.maker_of_kind(name_of(sub, "y")?, "reduce_max")?;
    let axes = graph.literal(sum, "axes")?;
    let same = name_of(sum, "x")? == exp_name && name_of(max, "x")? == x;
    let axis = graph.numbers(sum, "axes")?;
    let kept = graph.flag(sum, "keep_dims", false)? && graph.flag(max, "keep_dims", false)?;
    if !same || !kept || axis.len() != 1 || graph.numbers(max, "axes")? != axis {
        return None;
    }
    let mut new = op.clone();
    new.kind = "softmax".to_owned();
    new.inputs.clear();
    new.inputs.insert("x".to_owned(), Argument::One(Binding::Name(x.to_owned())));
    new.inputs.insert("axis".to_owned(), Argument::One(Binding::Value(axes.clone())));
    Some(new)
}

pub(super) fn run(function: &mut Function) -> usize {
    replace(function, |graph, i| matched(graph, graph.op(i)))
}
