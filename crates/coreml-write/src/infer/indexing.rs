//! Slices, gathers, scatters, sorting, states.

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, ValueType};

use super::{Call, Rule, dims, extent, one};
use crate::builder::arg;

pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "slice_by_index" => slice_by_index,
        "slice_by_size" => slice_by_size,
        "slice_update" => slice_update,
        "gather" => gather,
        "gather_along_axis" => gather_along_axis,
        "gather_nd" => gather_nd,
        "scatter" | "scatter_along_axis" | "scatter_nd" => |c| {
            let data = c.ty("data")?;
            one(data.dtype, data.shape.clone())
        },
        "one_hot" => one_hot,
        "topk" => topk,
        "argsort" => |c| {
            let x = c.ty("x")?;
            c.axis("axis", -1, x.shape.len())?;
            one(DataType::I32, x.shape.clone())
        },
        "non_zero" => |c| one(DataType::I32, vec![Dim::Unknown, Dim::Fixed(c.ty("x")?.shape.len())]),
        _ => return None,
    })
}

pub(super) fn read_state(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    match c.var("input").map(|v| &v.ty) {
        Some(ValueType::State(inner)) => Ok(vec![(**inner).clone()]),
        Some(other) => Err(format!("parameter `input`: expected a state, found {}", crate::builder_show(other))),
        None => Err("parameter `input` is missing".to_owned()),
    }
}

fn slice_by_index(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let rank = x.shape.len();
    let (begin, end) = (c.ints("begin"), c.ints("end"));
    let stride = c.ints("stride").unwrap_or_else(|| vec![1; rank]);
    let mask = |name: &str| c.ints(name).unwrap_or_else(|| vec![0; rank]);
    let (begin_mask, end_mask, squeeze) = (mask("begin_mask"), mask("end_mask"), mask("squeeze_mask"));
    for (name, found) in [
        ("begin", begin.as_ref()),
        ("end", end.as_ref()),
        ("stride", Some(&stride)),
        ("begin_mask", Some(&begin_mask)),
        ("end_mask", Some(&end_mask)),
        ("squeeze_mask", Some(&squeeze)),
    ] {
        if let Some(found) = found.filter(|f| f.len() != rank) {
            return Err(format!("parameter `{name}`: expected {rank} elements, found {}", found.len()));
        }
    }
    let mut shape = Vec::new();
    for i in 0..rank {
        if squeeze[i] != 0 {
            continue;
        }
        let step = stride[i];
        if step == 0 {
            return Err("parameter `stride`: expected no zero".to_owned());
        }
        let Some(n) = x.shape[i].fixed().map(|n| n as i64) else {
            shape.push(if begin_mask[i] != 0 && end_mask[i] != 0 && step == 1 { x.shape[i] } else { Dim::Unknown });
            continue;
        };
        let at = |list: &Option<Vec<i64>>, masked: i64, open: i64| match list {
            _ if masked != 0 => Some(open),
            Some(all) => Some(if all[i] < 0 { all[i] + n } else { all[i] }),
            None => None,
        };
        let ends = at(&begin, begin_mask[i], if step > 0 { 0 } else { n - 1 }).zip(at(
            &end,
            end_mask[i],
            if step > 0 { n } else { -1 },
        ));
        shape.push(ends.map_or(Dim::Unknown, |(from, to)| {
            let (from, to) = if step > 0 {
                (from.clamp(0, n), to.clamp(0, n))
            } else {
                (from.clamp(-1, n - 1), to.clamp(-1, n - 1))
            };
            let span = if step > 0 { to - from } else { from - to };
            Dim::Fixed(((span + step.abs() - 1) / step.abs()).max(0) as usize)
        }));
    }
    if let Some(i) = shape.iter().position(|d| *d == Dim::Fixed(0)) {
        return Err(format!(
            "expected a slice with elements, found none along result axis {i} of x {}",
            dims(&x.shape)
        ));
    }
    one(x.dtype, shape)
}

fn slice_by_size(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let begin = c.ints("begin");
    let Some(size) = c.ints("size") else { return one(x.dtype, vec![Dim::Unknown; x.shape.len()]) };
    if size.len() != x.shape.len() {
        return Err(format!("parameter `size`: expected {} elements, found {}", x.shape.len(), size.len()));
    }
    let at = |(i, &n): (usize, &i64)| match (n, x.shape[i].fixed(), begin.as_ref().and_then(|b| b.get(i))) {
        (-1, Some(all), Some(&b)) => extent(all as i64 - b),
        (-1, ..) => Dim::Unknown,
        (n, ..) => extent(n),
    };
    one(x.dtype, size.iter().enumerate().map(at).collect())
}

fn slice_update(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, update) = (c.ty("x")?, c.ty("update")?);
    if x.dtype != update.dtype {
        return Err(format!("expected x and update of one element type, found {} and {}", x.dtype, update.dtype));
    }
    for name in ["begin", "end"] {
        let found = c.ty(name)?;
        super::fits(name, &found.shape, &[Dim::Fixed(x.shape.len())])?;
    }
    one(x.dtype, x.shape.clone())
}

fn gather(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, indices) = (c.ty("x")?, c.ty("indices")?);
    let at = c.axis("axis", 0, x.shape.len())?;
    let batch = usize::try_from(c.int("batch_dims", 0)).ok().filter(|&b| b <= at && b <= indices.shape.len());
    let batch = batch.ok_or_else(|| format!("parameter `batch_dims`: expected at most {at}"))?;
    let mut shape = x.shape[..at].to_vec();
    shape.extend(&indices.shape[batch..]);
    shape.extend(&x.shape[at + 1..]);
    one(x.dtype, shape)
}

fn gather_along_axis(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, indices) = (c.ty("x")?, c.ty("indices")?);
    if x.shape.len() != indices.shape.len() {
        return Err(format!("expected indices of rank {}, found {}", x.shape.len(), dims(&indices.shape)));
    }
    c.axis("axis", 0, x.shape.len())?;
    one(x.dtype, indices.shape.clone())
}

fn gather_nd(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, indices) = (c.ty("x")?, c.ty("indices")?);
    let batch = usize::try_from(c.int("batch_dims", 0)).unwrap_or(0);
    let (last, outer) = indices.shape.split_last().ok_or("expected indices with an axis")?;
    let depth = last.fixed().ok_or("expected a known number of indices")?;
    let rest = batch.checked_add(depth).and_then(|n| x.shape.get(n..));
    let rest = rest
        .ok_or_else(|| format!("expected at most {} indices, found {depth} after {batch} batch axes", x.shape.len()))?;
    let mut shape = outer.to_vec();
    shape.extend(rest);
    one(x.dtype, shape)
}

fn one_hot(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let indices = c.ty("indices")?;
    let at = c.axis("axis", -1, indices.shape.len() + 1)?;
    let mut shape = indices.shape.clone();
    shape.insert(at, c.ints("one_hot_vector_size").and_then(|v| v.first().copied()).map_or(Dim::Unknown, extent));
    let dtype = c.var("on_value").and_then(|v| v.dtype()).unwrap_or(DataType::I32);
    one(dtype, shape)
}

fn topk(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let at = c.axis("axis", -1, x.shape.len())?;
    let mut shape = x.shape.clone();
    shape[at] = match c.int("k", 1) {
        -1 => shape[at],
        k => extent(k),
    };
    let dtype = c.text("output_indices_dtype").and_then(DataType::from_name).unwrap_or(DataType::I32);
    let mut out = vec![arg::tensor(x.dtype, shape.clone())];
    if c.int("return_indices", 1) != 0 {
        out.push(arg::tensor(dtype, shape));
    }
    Ok(out)
}
