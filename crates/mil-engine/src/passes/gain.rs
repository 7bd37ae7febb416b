//! The gain of an RMS norm as a part of it: a constant factor for each element of the last dimension.

use coreml_format::program::{Argument, Function, Operation};

use super::graph::{Graph, name_of, replace, shape_of};

fn matched(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "mul" {
        return None;
    }
    let shape = shape_of(op)?;
    let size = *shape.last()?;
    let with = |norm: &str, gain: &str| {
        let (_, norm_op) = graph.maker_of_kind(name_of(op, norm)?, "engine.rms_norm")?;
        let alone = graph.only_user(name_of(op, norm)?)?.0 == i && !norm_op.inputs.contains_key("gain");
        // The product has the shape of the norm, so that the gain repeats along all other dimensions.
        let extents = graph.literal(op, gain)?.ty.tensor()?.fixed_shape()?;
        let fits = extents.last() == Some(&size) && extents.iter().product::<usize>() == size;
        (alone && fits && shape_of(norm_op)? == shape).then(|| (norm_op, op.inputs.get(gain)))
    };
    let (norm, gain) = with("x", "y").or_else(|| with("y", "x"))?;
    let mut new = op.clone();
    new.kind = norm.kind.clone();
    new.inputs = norm.inputs.clone();
    let gain: &Argument = gain?;
    new.inputs.insert("gain".to_owned(), gain.clone());
    Some(new)
}

pub(super) fn run(function: &mut Function) -> usize {
    replace(function, matched)
}
