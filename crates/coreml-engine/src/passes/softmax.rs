//! Recognises softmax in expanded form: `exp(x − max) / Σ exp(x − max)` along one axis.

use coreml_format::program::{Argument, Binding, Function, Operation};

use crate::graph::{Graph, name_of, replace};
use crate::pass::Pass;

pub(super) const PASS: Pass = Pass { name: "softmax", after: &[], ops: &[], run };

/// The replacement for `op`, if it is the division at the end of a softmax.
fn try_match(graph: &Graph<'_>, op: &Operation) -> Option<Operation> {
    if op.kind != "real_div" {
        return None;
    }
    let exp_name = name_of(op, "x")?;
    let (_, exp) = graph.producer_of_kind(exp_name, "exp")?;
    let (_, sum) = graph.producer_of_kind(name_of(op, "y")?, "reduce_sum")?;
    let (_, sub) = graph.producer_of_kind(name_of(exp, "x")?, "sub")?;
    let x = name_of(sub, "x")?;
    let (_, max) = graph.producer_of_kind(name_of(sub, "y")?, "reduce_max")?;
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

fn run(function: &mut Function) -> usize {
    replace(function, |graph, i| try_match(graph, graph.op(i)))
}
