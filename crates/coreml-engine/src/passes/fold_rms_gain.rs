//! Folds the gain of an RMS norm, a constant factor per element of the last dimension, into the norm.

use coreml_format::program::{Argument, Function, Operation};

use super::rms_norm::op::RMS_NORM;
use crate::graph::{Graph, name_of, replace, shape_of};
use crate::pass::Pass;

pub(super) const PASS: Pass = Pass { name: "fold_rms_gain", after: &["rms_norm"], ops: &[], run };

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "mul" {
        return None;
    }
    let shape = shape_of(op)?;
    let size = *shape.last()?;
    let with = |norm: &str, gain: &str| {
        let (_, norm_op) = graph.producer_of_kind(name_of(op, norm)?, RMS_NORM.name)?;
        let alone = graph.only_user(name_of(op, norm)?)?.0 == i && !norm_op.inputs.contains_key("gain");
        // The product has the norm's shape, so the gain broadcasts along all other dimensions.
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

fn run(function: &mut Function) -> usize {
    replace(function, try_match)
}
