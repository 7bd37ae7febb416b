//! Operations that move the batch, or name extents.

use coreml_format::program::Operation;

use super::rules::Rule;
use super::{At, Follow, Places, stays};

pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "transpose" => transpose,
        "expand_dims" => expand_dims,
        "squeeze" => squeeze,
        "reshape" => reshape,
        "flatten2d" => flatten,
        "slice_by_index" => slice_by_index,
        "slice_by_size" => slice_by_size,
        "pad" => pad,
        "tile" => tile,
        "gather" => gather,
        "gather_along_axis" => gather_along_axis,
        "one_hot" => one_hot,
        "fill_like" => fill_like,
        _ => return None,
    })
}

const ALONG: &str = "it works along the batch";

fn transpose(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    let perm = f.axes(op, "perm", rank, &[])?;
    let axis = perm.iter().position(|&a| a == at.axis).ok_or("`perm` leaves the batch out")?;
    stays(At { axis, ..at })
}

fn expand_dims(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    let result = rank + f.ints(op, "axes")?.len();
    let axes = f.axes(op, "axes", result, &[])?;
    let axis = (0..result).filter(|a| !axes.contains(a)).nth(at.axis).ok_or("`axes` repeat")?;
    stays(At { axis, ..at })
}

fn squeeze(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    let axes = f.axes(op, "axes", rank, &(0..rank).collect::<Vec<_>>())?;
    if axes.contains(&at.axis) {
        return Err("it drops the batch".to_owned());
    }
    stays(At { axis: at.axis - axes.iter().filter(|&&a| a < at.axis).count(), ..at })
}

/// The batch is where as many elements lie before it as before, and where the extent holds whole rows: at its old axis if
/// that fits, else at the first one.
fn reshape(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, _) = f.place(op, "x")?;
    let x = f.shape(f.bound(op, "x")?).ok_or("`x` has extents that are not known")?;
    let asked = f.ints(op, "shape")?;
    let result = op.outputs.first().and_then(|o| o.ty.tensor()?.fixed_shape());
    let result =
        result.filter(|r| r.len() == asked.len() && !r.contains(&0)).ok_or("its result has no known extents")?;
    let before: usize = x[..at.axis].iter().product();
    let fits = |&j: &usize| result[..j].iter().product::<usize>() == before && result[j].is_multiple_of(f.old);
    let axis = std::iter::once(at.axis).filter(|&a| a < result.len()).chain(0..result.len()).find(fits);
    let axis = axis.ok_or("it joins the batch with what is before it, or splits it")?;
    let place = At { axis, factor: result[axis] / f.old };
    let number = |(i, &n): (usize, &usize)| if i == axis { f.number(place) } else { n as i64 };
    let shape: Vec<i64> = result.iter().enumerate().map(number).collect();
    f.bind_ints(op, "shape", &shape)?;
    stays(place)
}

fn flatten(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    let x = f.shape(f.bound(op, "x")?).ok_or("`x` has extents that are not known")?;
    let split = f.axes(op, "axis", rank + 1, &[1])?.first().copied().unwrap_or(1);
    if at.axis != 0 || split == 0 {
        return Err("it joins the batch with other axes".to_owned());
    }
    stays(At { axis: 0, factor: at.factor * x[1..split].iter().product::<usize>() })
}

fn slice_by_index(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    let flags = |name: &str| Ok::<_, String>(f.maybe(op, name)?.unwrap_or_else(|| vec![0; rank]));
    let (begins, mut ends, squeezed) = (flags("begin_mask")?, flags("end_mask")?, flags("squeeze_mask")?);
    let (begin, end) = (f.ints(op, "begin"), f.ints(op, "end"));
    let stride = f.maybe(op, "stride")?.unwrap_or_else(|| vec![1; rank]);
    if [&begins, &ends, &squeezed, &stride].iter().any(|v| v.len() != rank) {
        return Err("parameters of another rank than `x`".to_owned());
    }
    let a = at.axis;
    let number = |list: &Result<Vec<i64>, String>| list.as_ref().ok().and_then(|v| v.get(a)).copied();
    let first = begins[a] != 0 || number(&begin) == Some(0);
    let last = ends[a] != 0 || number(&end) == i64::try_from(at.factor * f.old).ok();
    if !first || !last || stride[a] != 1 || squeezed[a] != 0 {
        return Err("it takes some of the rows".to_owned());
    }
    if ends[a] == 0 {
        ends[a] = 1;
        if op.inputs.contains_key("end_mask") {
            f.bind_ints(op, "end_mask", &ends)?;
        } else {
            let flags: Vec<bool> = ends.iter().map(|&e| e != 0).collect();
            f.bind(op, "end_mask", coreml_format::program::Value::bools(&flags));
        }
    }
    let gone = squeezed[..a].iter().filter(|&&s| s != 0).count();
    stays(At { axis: a - gone, ..at })
}

fn slice_by_size(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, _) = f.place(op, "x")?;
    let mut size = f.ints(op, "size")?;
    let begin = f.ints(op, "begin").ok().and_then(|b| b.get(at.axis).copied());
    let all = size.get(at.axis).is_some_and(|&n| n == -1 || usize::try_from(n) == Ok(at.factor * f.old));
    if begin != Some(0) || !all {
        return Err("it takes some of the rows".to_owned());
    }
    size[at.axis] = -1;
    f.bind_ints(op, "size", &size)?;
    stays(at)
}

fn pad(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    let pad = f.ints(op, "pad")?;
    let first = rank.checked_sub(pad.len() / 2).ok_or("`pad` is of another rank")?;
    match at.axis.checked_sub(first).and_then(|i| pad.get(2 * i..2 * i + 2)) {
        Some(by) if by != [0, 0] => Err(ALONG.to_owned()),
        _ => stays(at),
    }
}

fn tile(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, _) = f.place(op, "x")?;
    if f.ints(op, "reps")?.get(at.axis) == Some(&1) { stays(at) } else { Err(ALONG.to_owned()) }
}

/// Rows of indices into a table, or a look-up in each row.
fn gather(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x", "indices"])?;
    let (x, indices) = (f.bound(op, "x")?.clone(), f.bound(op, "indices")?.clone());
    let (rank, more) = (f.rank(&x)?, f.rank(&indices)?);
    let axis = f.axes(op, "axis", rank, &[0])?.first().copied().unwrap_or(0);
    let batches = f.maybe(op, "batch_dims")?.and_then(|v| v.first().copied()).unwrap_or(0);
    match (f.at(&x), f.at(&indices), usize::try_from(batches).unwrap_or(0)) {
        (None, Some(at), 0) => stays(At { axis: axis + at.axis, ..at }),
        (Some(at), None, 0) if at.axis < axis => stays(at),
        (Some(at), None, 0) if at.axis > axis => stays(At { axis: at.axis - 1 + more, ..at }),
        (Some(at), Some(other), n) if at == other && at.axis < n => stays(at),
        _ => Err("it looks up across rows of the batch".to_owned()),
    }
}

fn gather_along_axis(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x", "indices"])?;
    let ((at, rank), other) = (f.place(op, "x")?, f.place(op, "indices")?);
    let axis = f.axes(op, "axis", rank, &[0])?;
    if (at, rank) != other || axis.contains(&at.axis) {
        return Err("it looks up across rows of the batch".to_owned());
    }
    stays(at)
}

fn one_hot(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["indices"])?;
    let (at, rank) = f.place(op, "indices")?;
    let axis = f.axes(op, "axis", rank + 1, &[rank])?.first().copied().unwrap_or(rank);
    stays(At { axis: at.axis + usize::from(axis <= at.axis), ..at })
}

fn fill_like(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["ref_tensor"])?;
    stays(f.place(op, "ref_tensor")?.0)
}
