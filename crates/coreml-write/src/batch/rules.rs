//! How operations treat the rows of a batch.

use coreml_format::program::{Argument, Binding, Operation};

use super::{At, Extent, Follow, Places, products, shapes, stays};
use crate::infer::POINTWISE;

/// Follows the batch through an operation; mends its constants.
pub(super) type Rule = fn(&mut Follow<'_, '_>, &mut Operation) -> Places;

/// Operands broadcast.
const BROADCAST: [&str; 19] = [
    "add",
    "sub",
    "mul",
    "real_div",
    "floor_div",
    "mod",
    "pow",
    "maximum",
    "minimum",
    "logical_and",
    "logical_or",
    "logical_xor",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "select",
];

pub(super) fn rule(kind: &str) -> Option<Rule> {
    if POINTWISE.contains(&kind) {
        return Some(unary);
    }
    if BROADCAST.contains(&kind) {
        return Some(broadcast);
    }
    Some(match kind {
        "cast" | "prelu" | "softplus_parametric" | "batch_norm" | "quantize" | "dequantize" => unary,
        "softmax" => |f, op| beside(f, op, "axis", Missing::Last),
        "cumsum" => |f, op| beside(f, op, "axis", Missing::First),
        "argsort" => |f, op| beside(f, op, "axis", Missing::Last),
        "topk" => |f, op| beside(f, op, "axis", Missing::Last),
        "split" => |f, op| beside(f, op, "axis", Missing::First),
        "layer_norm" | "reverse" => |f, op| beside(f, op, "axes", Missing::All),
        "reduce_argmax" | "reduce_argmin" => |f, op| reduce(f, op, "axis"),
        "reduce_sum" | "reduce_mean" | "reduce_max" | "reduce_min" | "reduce_prod" | "reduce_l1_norm"
        | "reduce_l2_norm" | "reduce_log_sum" | "reduce_log_sum_exp" | "reduce_sum_square" => {
            |f, op| reduce(f, op, "axes")
        }
        "instance_norm" | "local_response_norm" | "avg_pool" | "max_pool" | "l2_pool" => after_first,
        "l2_norm" | "pixel_shuffle" | "pixel_unshuffle" | "space_to_depth" | "depth_to_space" => {
            |f, op| from_last(f, op, 3)
        }
        "band_part"
        | "upsample_bilinear"
        | "upsample_nearest_neighbor"
        | "resize_bilinear"
        | "resize_nearest_neighbor"
        | "crop" => |f, op| from_last(f, op, 2),
        "concat" => joined,
        "stack" => stack,
        _ => return shapes::rule(kind).or_else(|| products::rule(kind)),
    })
}

/// The only operand is `x`; what it is worked with has no batch. Numbers of channels lie along the second axis.
fn unary(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    let x = if op.kind == "dequantize" || op.kind == "quantize" { "input" } else { "x" };
    f.only(op, &[x])?;
    let (at, rank) = f.place(op, x)?;
    let channels = match op.kind.as_str() {
        "prelu" | "softplus_parametric" | "batch_norm" => vec![1],
        "quantize" | "dequantize" => f.axes(op, "axis", rank, &[])?,
        _ => Vec::new(),
    };
    if channels.contains(&at.axis) {
        return Err("its channels are the batch".to_owned());
    }
    stays(at)
}

/// Axes of a parameter that is omitted.
#[derive(Clone, Copy)]
enum Missing {
    First,
    Last,
    All,
}

fn axes(
    f: &Follow<'_, '_>,
    op: &Operation,
    parameter: &str,
    rank: usize,
    missing: Missing,
) -> Result<Vec<usize>, String> {
    let all: Vec<usize> = match missing {
        Missing::First => vec![0],
        Missing::Last => rank.checked_sub(1).into_iter().collect(),
        Missing::All => (0..rank).collect(),
    };
    f.axes(op, parameter, rank, &all)
}

fn clear_of(at: At, axes: &[usize]) -> Result<(), String> {
    if axes.contains(&at.axis) { Err("it works along the batch".to_owned()) } else { Ok(()) }
}

/// Work along other axes of `x`.
fn beside(f: &mut Follow<'_, '_>, op: &mut Operation, parameter: &str, missing: Missing) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    clear_of(at, &axes(f, op, parameter, rank, missing)?)?;
    stays(at)
}

/// Work on all axes but the first.
fn after_first(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    clear_of(at, &(1..rank).collect::<Vec<_>>())?;
    stays(at)
}

/// Work on the last axes.
fn from_last(f: &mut Follow<'_, '_>, op: &mut Operation, count: usize) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    clear_of(at, &(rank.saturating_sub(count)..rank).collect::<Vec<_>>())?;
    stays(at)
}

fn reduce(f: &mut Follow<'_, '_>, op: &mut Operation, parameter: &str) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    let missing = if parameter == "axis" { Missing::Last } else { Missing::All };
    let axes = axes(f, op, parameter, rank, missing)?;
    clear_of(at, &axes)?;
    let keep = f.maybe(op, "keep_dims")?.is_some_and(|v| v.first() == Some(&1));
    let gone = if keep { 0 } else { axes.iter().filter(|&&a| a < at.axis).count() };
    stays(At { axis: at.axis - gone, ..at })
}

/// Shapes align at the last axis. Operands without the batch have one element in its place, or constants equal rows.
fn broadcast(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    let mut operands = Vec::new();
    for (name, argument) in &op.inputs {
        let Argument::One(binding) = argument else { return Err(format!("parameter `{name}` has several values")) };
        operands.push((name.clone(), binding.clone(), f.rank(binding)?));
    }
    let rank = operands.iter().map(|(.., rank)| *rank).max().unwrap_or(0);
    let mut places = operands.iter().filter_map(|(_, b, r)| f.at(b).map(|at| At { axis: at.axis + rank - r, ..at }));
    let at = places.next().ok_or("expected an operand with the batch")?;
    if let Some(other) = places.find(|&other| other != at) {
        return Err(format!("operands have the batch along axes {} and {}", at.axis, other.axis));
    }
    for (name, binding, r) in operands {
        let Some(axis) = (at.axis + r).checked_sub(rank).filter(|_| f.at(&binding).is_none()) else { continue };
        let shape = f.shape(&binding).ok_or_else(|| format!("parameter `{name}` has no known shape"))?;
        if shape[axis] == 1 {
            continue;
        }
        mend(f, op, &name, At { axis, ..at })?;
    }
    stays(at)
}

/// Gives a constant operand one row, or one for each of the batch where a row has several elements along the axis.
fn mend(f: &mut Follow<'_, '_>, op: &mut Operation, parameter: &str, at: At) -> Result<(), String> {
    let count = match (at.factor, f.extent) {
        (1, _) => 1,
        (_, Extent::Fixed(n)) => n,
        _ => return Err(format!("parameter `{parameter}` would need a row for each of the batch")),
    };
    let value = f.constant(op, parameter).ok_or_else(|| format!("parameter `{parameter}` has an extent of its own"))?;
    let value = f.rows(&value, at, count).map_err(|e| format!("parameter `{parameter}`: {e}"))?;
    f.bind(op, parameter, value);
    Ok(())
}

/// Values side by side: those without the batch must be constants of equal rows.
fn joined(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["values"])?;
    let values = op.inputs.get("values").map(|a| a.bindings().to_vec()).unwrap_or_default();
    let rank = values.first().map_or(Ok(0), |v| f.rank(v))?;
    let at = values.iter().find_map(|v| f.at(v)).ok_or("expected a value with the batch")?;
    clear_of(at, &axes(f, op, "axis", rank, Missing::First)?)?;
    let mut new = Vec::new();
    for (i, value) in values.into_iter().enumerate() {
        match f.at(&value) {
            Some(other) if other == at => new.push(value),
            Some(other) => return Err(format!("values have the batch along axes {} and {}", at.axis, other.axis)),
            None => {
                let Extent::Fixed(n) = f.extent else {
                    return Err(format!("value {i} would need a row for each of the batch"));
                };
                let known = match &value {
                    Binding::Name(name) => f.known.constants.get(name).cloned(),
                    Binding::Value(value) => Some(value.clone()),
                };
                let known = known.ok_or_else(|| format!("value {i} has a batch of its own"))?;
                let made = f.rows(&known, at, n).map_err(|e| format!("value {i}: {e}"))?;
                let name = f.known.fresh(&format!("{}_value_batch", op.name));
                f.new.push(crate::passes::constant_op(name.clone(), made));
                new.push(Binding::Name(name));
            }
        }
    }
    op.inputs.insert("values".to_owned(), Argument::Many(new));
    stays(at)
}

fn stack(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["values"])?;
    let values = op.inputs.get("values").map(|a| a.bindings().to_vec()).unwrap_or_default();
    let rank = values.first().map_or(Ok(0), |v| f.rank(v))?;
    let places: Option<Vec<At>> = values.iter().map(|v| f.at(v)).collect();
    let places = places.ok_or("a value has no batch")?;
    let at = places[0];
    if places.iter().any(|&other| other != at) {
        return Err("values have the batch along several axes".to_owned());
    }
    let axis = f.axes(op, "axis", rank + 1, &[0])?.first().copied().unwrap_or(0);
    stays(At { axis: at.axis + usize::from(axis <= at.axis), ..at })
}
