//! Moves rows of a state in place: `write(concat(slice(read), new))`, as a sliding window drops its oldest rows.
//!
//! Matches only a part of a state that is rewritten with itself, moved towards the start of one dimension, and new rows
//! behind it. All bounds must be constant and all dimensions after the moved one whole.

use std::ops::Range;

use coreml_format::program::{Argument, Binding, Function, Operation, Value};

use super::state_access::is_quiet;
use super::state_access::op::{STATE_SHIFT, STATE_SLICE, STATE_UPDATE};
use crate::batch::literal;
use crate::graph::{Graph, name_of, replace};
use crate::ops::slice::positions;
use crate::pass::Pass;
use coreml_kernels::gather::AxisIndices;

pub(super) const PASS: Pass = Pass { name: "state_shift", after: &["state_access"], ops: &[], run };

/// Half-open range in each dimension.
type Region = Vec<Range<usize>>;

/// The region that a slice selects of these extents, if it is constant and drops no dimension.
fn region(graph: &Graph<'_>, op: &Operation, extents: &[usize]) -> Option<Region> {
    let given = |name: &str| if op.inputs.contains_key(name) { graph.numbers(op, name) } else { Some(Vec::new()) };
    let (begin, end) = (graph.numbers(op, "begin")?, graph.numbers(op, "end")?);
    let (begin_mask, end_mask) = (given("begin_mask")?, given("end_mask")?);
    let plain = given("stride")?.iter().all(|&s| s == 1.0) && given("squeeze_mask")?.iter().all(|&s| s == 0.0);
    if !plain || op.inputs.contains_key("rows") || begin.len() != extents.len() || end.len() != extents.len() {
        return None;
    }
    let set = |mask: &[f64], d: usize| mask.get(d).is_some_and(|&m| m != 0.0);
    let along = |(d, &n): (usize, &usize)| match positions(
        n,
        begin[d] as i64,
        end[d] as i64,
        1,
        set(&begin_mask, d),
        set(&end_mask, d),
    )
    .ok()?
    {
        AxisIndices::Run(run) => Some(run),
        AxisIndices::At(_) => None,
    };
    extents.iter().enumerate().map(along).collect()
}

/// Position of the read, state and region of a value that is a part of a state.
fn part_of<'b>(graph: &Graph<'b>, value: &str) -> Option<(usize, &'b str, Region)> {
    let (at, op) = graph.producer(value)?;
    match op.kind.as_str() {
        kind if kind == STATE_SLICE.name => {
            let state = name_of(op, "input")?;
            let extents = graph.declared(state)?.fixed_shape()?;
            Some((at, state, region(graph, op, &extents)?))
        }
        "slice_by_index" => {
            let (at, state, outer) = part_of(graph, name_of(op, "x")?)?;
            let extents: Vec<usize> = outer.iter().map(Range::len).collect();
            let inner = region(graph, op, &extents)?;
            let moved = |(o, i): (&Range<usize>, Range<usize>)| o.start + i.start..o.start + i.end;
            Some((at, state, outer.iter().zip(inner).map(moved).collect()))
        }
        _ => None,
    }
}

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let update = graph.op(i);
    if update.kind != STATE_UPDATE.name {
        return None;
    }
    let state = name_of(update, "input")?;
    let declared = graph.declared(state)?;
    let extents = declared.fixed_shape()?;
    let target = region(graph, update, &extents)?;
    let (_, concat) = graph.producer_of_kind(name_of(update, "update")?, "concat")?;
    let Some(Argument::Many(values)) = concat.inputs.get("values") else { return None };
    let [kept, new] = values.as_slice() else { return None };
    if graph.flag(concat, "interleave", false)? {
        return None;
    }
    let (Binding::Name(kept), Binding::Name(new_name)) = (kept, new) else { return None };
    let (at, source, part) = part_of(graph, kept)?;
    // The rows are converted once, on their way into the state.
    let same = source == state && graph.declared(new_name)?.dtype == declared.dtype;
    let rank = extents.len() as i64;
    let axis = graph.number(concat, "axis")? as i64;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&a| a < extents.len())?;
    let beside = (0..extents.len()).all(|d| d == axis || part[d] == target[d]);
    let whole = (axis + 1..extents.len()).all(|d| target[d] == (0..extents[d]));
    let (from, to) = (&part[axis], &target[axis]);
    let moved = from.end == to.end && from.start > to.start && !from.is_empty();
    let rows = graph.declared(new_name)?.fixed_shape()?;
    let fits = rows.len() == extents.len()
        && (0..rows.len()).all(|d| rows[d] == if d == axis { from.start - to.start } else { target[d].len() });
    if !(same && beside && whole && moved && fits && is_quiet(graph, state, at, i)) {
        return None;
    }
    let bounds = |pick: fn(&Range<usize>) -> usize| -> Option<Argument> {
        let all = target.iter().map(|r| i32::try_from(pick(r)).ok()).collect::<Option<Vec<i32>>>()?;
        Some(literal(Value::ints(&all)))
    };
    let mut op = update.clone();
    op.kind = STATE_SHIFT.name.to_owned();
    op.inputs.clear();
    op.inputs.insert("input".to_owned(), update.inputs.get("input")?.clone());
    op.inputs.insert("update".to_owned(), Argument::One(new.clone()));
    op.inputs.insert("begin".to_owned(), bounds(|r| r.start)?);
    op.inputs.insert("end".to_owned(), bounds(|r| r.end)?);
    op.inputs.insert("axis".to_owned(), literal(Value::int(i32::try_from(axis).ok()?)));
    Some(op)
}

fn run(function: &mut Function) -> usize {
    replace(function, try_match)
}
