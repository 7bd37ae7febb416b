//! Fuses attention over a KV cache in a state: `softmax(q · Kᵀ · scale + mask) · V`, where K and V are slices of the
//! state, repeated for the query heads that share them.

mod op;

use coreml_format::program::{Argument, Binding, Function, Operation};

use super::state_access::is_quiet;
use super::state_access::op::STATE_SLICE;
use crate::graph::{Graph, declared_shape, name_of, replace, shape_of};
use crate::pass::Pass;
use op::CACHED_ATTENTION;

pub(super) const PASS: Pass =
    Pass { name: "cached_attention", after: &["softmax", "state_access"], ops: &[CACHED_ATTENTION], run };

/// True if a shape ends with `tail`, such as `[KV, 1 or share, length, dim]`, and its other extents are one.
fn ends_with(shape: &[usize], tail: &[usize]) -> bool {
    shape.len() >= tail.len() && shape.ends_with(tail) && shape[..shape.len() - tail.len()].iter().all(|&n| n == 1)
}

/// A slice of the state, each head repeated.
struct Slice<'b> {
    at: usize,
    op: &'b Operation,
    /// Query heads, positions, head dimension.
    sizes: [usize; 3],
}

/// The state slice that produces `name`.
fn cache_slice<'b>(graph: &Graph<'b>, name: &str) -> Option<Slice<'b>> {
    let target = declared_shape(graph, name)?;
    let (&[1, heads, length, dim] | &[heads, length, dim]) = target.as_slice() else { return None };
    let mut current = name.to_owned();
    let mut repeated = None;
    loop {
        let (i, op) = graph.producer(&current)?;
        match op.kind.as_str() {
            kind if kind == STATE_SLICE.name => {
                let kv = heads / repeated.unwrap_or(1);
                return (kv > 0 && kv * repeated.unwrap_or(1) == heads && shape_of(op)? == [1, kv, length, dim])
                    .then_some(Slice { at: i, op, sizes: [heads, length, dim] });
            }
            "tile" => {
                // [.., KV, 1, length, dim] → [.., KV, share, length, dim]
                let share = graph.numbers(op, "reps")?.into_iter().product::<f64>() as usize;
                let kv = heads.checked_div(share)?;
                let before = declared_shape(graph, name_of(op, "x")?)?;
                if repeated.replace(share).is_some()
                    || !ends_with(&shape_of(op)?, &[kv, share, length, dim])
                    || !ends_with(&before, &[kv, 1, length, dim])
                {
                    return None;
                }
            }
            "reshape" | "expand_dims" | "squeeze" => {
                // Only extents of one may be added or removed, or [KV, share] merged into heads after the repetition.
                let from = declared_shape(graph, name_of(op, "x")?)?;
                let significant = |s: &[usize]| s.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
                let joins = ends_with(&shape_of(op)?, &[heads, length, dim]) && repeated.is_none();
                if significant(&from) != significant(&shape_of(op)?) && !joins {
                    return None;
                }
            }
            _ => return None,
        }
        current = name_of(op, "x")?.to_owned();
    }
}

/// Applies `pick` to the operands of a commutative operation; returns its match and the name of the other parameter.
fn either<'o, T>(op: &'o Operation, pick: impl Fn(&'o str) -> Option<T>) -> Option<(T, &'static str)> {
    match name_of(op, "x").and_then(&pick) {
        Some(found) => Some((found, "y")),
        None => name_of(op, "y").and_then(&pick).map(|found| (found, "x")),
    }
}

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "matmul" || graph.flag(op, "transpose_x", false)? || graph.flag(op, "transpose_y", false)? {
        return None;
    }
    let mut weights = name_of(op, "x")?;
    if let Some((_, reshape)) = graph.producer_of_kind(weights, "reshape") {
        // [1, heads, n, length] → [heads, n, length], as in lowered einsum.
        let from = name_of(reshape, "x")?;
        if declared_shape(graph, from)?.strip_prefix(&[1])? != shape_of(reshape)? {
            return None;
        }
        weights = from;
    }
    let (_, softmax) = graph.producer_of_kind(weights, "softmax")?;
    let values = cache_slice(graph, name_of(op, "y")?)?;
    let last = graph.number_or(softmax, "axis", -1.0)?;
    if last != -1.0 && last != 3.0 {
        return None;
    }
    let (_, add) = graph.producer_of_kind(name_of(softmax, "x")?, "add")?;
    let (mul, mask) = either(add, |n| graph.producer_of_kind(n, "mul").map(|m| m.1))?;
    let (scores, scale) = either(mul, |n| graph.producer_of_kind(n, "matmul").map(|m| m.1))?;
    if graph.numbers(mul, scale)?.len() != 1 || graph.flag(scores, "transpose_x", false)? {
        return None;
    }
    let keys_name = name_of(scores, "y")?;
    if !graph.flag(scores, "transpose_y", false)? {
        return None;
    }
    let keys = cache_slice(graph, keys_name)?;
    let state = name_of(keys.op, "input")?;
    if name_of(values.op, "input")? != state || values.sizes != keys.sizes {
        return None;
    }
    // All queries and scores have this shape throughout: nothing else is broadcast.
    let [heads, length, dim] = keys.sizes;
    let query = graph.float_of(scores, "x")?.fixed_shape()?;
    let &[1, query_heads, queries, size] = query.as_slice() else { return None };
    let whole = [1, heads, queries, length];
    let scored = [scores, mul, add, softmax].into_iter().all(|op| shape_of(op).is_some_and(|s| s == whole));
    let result = shape_of(op)?;
    let result = result == [1, heads, queries, dim] || result == [heads, queries, dim];
    if (query_heads, size) != (heads, dim) || !scored || !result {
        return None;
    }
    for (op, parameter) in [(add, mask), (scores, "y"), (op, "y")] {
        graph.float_of(op, parameter)?;
    }
    // The fused operation reads the slices later: nothing may write the state in between.
    if !is_quiet(graph, state, keys.at.min(values.at), i) {
        return None;
    }
    let mut new = op.clone();
    new.kind = CACHED_ATTENTION.name.to_owned();
    new.inputs.clear();
    let mut bind = |name: &str, argument: &Argument| new.inputs.insert(name.to_owned(), argument.clone());
    bind("query", scores.inputs.get("x")?);
    bind("mask", add.inputs.get(mask)?);
    bind("scale", mul.inputs.get(scale)?);
    bind("input", &Argument::One(Binding::Name(state.to_owned())));
    for (prefix, slice) in [("key_", keys.op), ("value_", values.op)] {
        for (name, argument) in &slice.inputs {
            if name != "input" {
                new.inputs.insert(format!("{prefix}{name}"), argument.clone());
            }
        }
    }
    Some(new)
}

fn run(function: &mut Function) -> usize {
    replace(function, try_match)
}
