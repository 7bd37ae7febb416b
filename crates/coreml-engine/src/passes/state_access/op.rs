//! `engine.state_slice`, `engine.state_update` and `engine.state_shift`: parts of a state, read, written and moved in
//! place. They validate their operands at run time, since declared types of a file may be wrong.

use coreml_format::program::{Operation, Value};
use coreml_kernels::gather::AxisIndices;

use crate::array::Array;
use crate::batch::{BatchDim, Followed, literal};
use crate::budget::Counted;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::graph::name_of;
use crate::op::{OpSpec, since::*};
use crate::ops::slice::{SliceParams, runs, take};
use crate::planned::Run;
use crate::state::StateBuffer;

pub(crate) const STATE_SLICE: OpSpec = OpSpec::impure("engine.state_slice", IOS18, state_slice);
pub(crate) const STATE_UPDATE: OpSpec =
    OpSpec::impure("engine.state_update", IOS18, state_update).batch(batch).writes("input");
/// Made by the rewrite `state_shift`.
pub(crate) const STATE_SHIFT: OpSpec = OpSpec::impure("engine.state_shift", IOS18, state_shift).writes("input");

/// `engine.state_slice(input, begin, end, …)`: `slice_by_index` of a state.
fn state_slice(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let state = b.slot("input")?;
    let params = SliceParams::new(b)?;
    b.run(move |f| {
        let shape = f.state(state)?.spec().shape.clone();
        let (positions, squeeze) = params.resolve(f, &shape)?;
        one(part(f.state(state)?, &positions, &squeeze)?)
    })
}

/// Copies a part of a state, whose buffer changes in place later.
pub(crate) fn part(buffer: &StateBuffer, positions: &[AxisIndices], squeeze: &[bool]) -> Result<Array, OpError> {
    let dtype = buffer.spec().dtype;
    // Scattered positions are gathered in the values' representation.
    let part = match runs(positions) {
        Some(_) => take(buffer.tensor(), positions, squeeze)?,
        None => take(Array::new(buffer.tensor().clone(), dtype)?.tensor(), positions, squeeze)?,
    };
    Array::new(part.counted_copy()?, dtype)
}

/// `engine.state_update(input, update, begin, end, …, rows?)`: `slice_update` of a state, in place; no result. Along
/// dimension `rows` of the state, as many positions are written as the update has.
fn state_update(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (state, update) = (b.slot("input")?, b.slot("update")?);
    let params = SliceParams::new(b)?;
    let rows = b.attr_opt::<i64>("rows")?.and_then(|d| usize::try_from(d).ok());
    b.run(move |f| {
        let shape = f.state(state)?.spec().shape.clone();
        let update = f.array(update)?;
        // Dimensions align at the last one.
        let count = |d: usize| Some((d, *update.shape().get((d + update.rank()).checked_sub(shape.len())?)?));
        let (positions, _) = params.resolve_rows(f, &shape, rows.and_then(count))?;
        let extents: Vec<usize> = positions.iter().map(AxisIndices::len).collect();
        let update = if update.tensor().elem_count() == extents.iter().product::<usize>() {
            update.tensor().counted_reshape(extents)?
        } else {
            update.tensor().broadcast_as(extents)?
        };
        if update.elem_count() == 0 {
            return Ok(Vec::new());
        }
        let Some(ranges) = runs(&positions) else {
            return Err(OpError::Unsupported(
                "updating a state at positions that do not follow one another".to_owned(),
            ));
        };
        let begin: Vec<usize> = ranges.iter().map(|r| r.start).collect();
        f.state(state)?.write_slice(&update, &begin)?;
        Ok(Vec::new())
    })
}

/// `engine.state_shift(input, update, begin, end, axis)`: in the region `begin..end` of the state, drops as many
/// positions from the start of `axis` as `update` has and writes `update` behind the others; no result.
fn state_shift(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (state, update) = (b.slot("input")?, b.slot("update")?);
    let [begin, end] = ["begin", "end"].map(|name| b.attr::<Vec<i64>>(name));
    let axis = b.attr::<i64>("axis")?;
    let index = |v: i64| usize::try_from(v).map_err(|_| OpError::shape(format!("position {v} of a state")));
    let all = |v: Vec<i64>| v.into_iter().map(index).collect::<Result<Vec<usize>, OpError>>();
    let (begin, end, axis) = (all(begin?)?, all(end?)?, index(axis)?);
    b.run(move |f| {
        let update = f.array(update)?.tensor().clone();
        f.state(state)?.shift(&update, &begin, &end, axis)?;
        Ok(Vec::new())
    })
}

/// The number of rows is that of the update.
fn batch<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    dim.only(op, &["update"])?;
    let update = dim.source(op, "update")?;
    let state = name_of(op, "input").and_then(|name| dim.types.get(name)?.tensor()?.fixed_shape());
    let rank = state.ok_or("the shape of the state is not known")?.len();
    let axis = (update.axis + rank).checked_sub(update.shape.len()).ok_or("the update has more dimensions")?;
    // Dimensions align at the last one: those missing in the update precede the rows.
    let after = dim.ints_or_none(op, "squeeze_mask")?.into_iter().skip(axis).any(|v| v != 0);
    if after && update.shape.len() < rank {
        return Err("the update lacks a dimension after the rows".to_owned());
    }
    for name in ["begin_mask", "end_mask", "squeeze_mask"] {
        if dim.ints_or_none(op, name)?.get(axis).is_some_and(|&v| v != 0) {
            return Err(format!("`{name}` is set for the rows"));
        }
    }
    Ok((None, vec![("rows".to_owned(), literal(Value::int(axis as i32)))]))
}
