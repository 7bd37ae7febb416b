//! Operations that change shapes: reshape, transpose, concat, split, tile, pad, reductions, …

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, Opset, TensorType, ValueType};

use super::{Call, Rule, axis, dims, extent, one};
use crate::builder::arg;

pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "reshape" => reshape,
        "transpose" => transpose,
        "expand_dims" => expand_dims,
        "squeeze" => squeeze,
        "concat" => concat,
        "stack" => stack,
        "split" => split,
        "tile" => tile,
        "pad" => pad,
        "flatten2d" => flatten2d,
        "shape" => |c| one(DataType::I32, vec![Dim::Fixed(c.ty("x")?.shape.len())]),
        "fill" => fill,
        "fill_like" => {
            |c| one(c.var("value").and_then(|v| v.dtype()).unwrap_or(DataType::F32), c.ty("ref_tensor")?.shape.clone())
        }
        "range_1d" => |c| one(c.ty("start")?.dtype, vec![Dim::Unknown]),
        "reduce_argmax" | "reduce_argmin" => argument,
        "depth_to_space" | "pixel_shuffle" | "space_to_depth" | "pixel_unshuffle" => blocks,
        "upsample_nearest_neighbor" | "upsample_bilinear" => upsample,
        "resize_bilinear" | "resize_nearest_neighbor" => resize,
        "crop" => crop,
        _ if kind.starts_with("reduce_") => reduce,
        _ => return None,
    })
}

fn product(shape: &[Dim]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(d.fixed()?))
}

fn reshape(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let Some(shape) = c.ints("shape") else {
        // Known at run time only: the rank is that of the vector.
        let rank = c.ty("shape")?.shape.first().and_then(|d| d.fixed());
        return one(x.dtype, rank.map_or_else(|| vec![Dim::Variadic], |n| vec![Dim::Unknown; n]));
    };
    let mut out: Vec<Dim> = Vec::new();
    for (i, &n) in shape.iter().enumerate() {
        out.push(match n {
            // 0 copies the extent of x; from iOS 17 on with another rank, too, where extents align from the right.
            0 if shape.len() != x.shape.len() && c.opset < Opset::Ios17 => {
                let rank = x.shape.len();
                return Err(format!("parameter `shape`: expected {rank} extents where one is 0, found {shape:?}"));
            }
            0 => (i + x.shape.len()).checked_sub(shape.len()).map_or(Dim::Fixed(1), |at| x.shape[at]),
            -1 => Dim::Unknown,
            n => Dim::Fixed(
                usize::try_from(n).map_err(|_| format!("parameter `shape`: expected extents or -1, found {n}"))?,
            ),
        });
    }
    let open = shape.iter().filter(|&&n| n == -1).count();
    if open > 1 {
        return Err(format!("parameter `shape`: expected at most one -1, found {shape:?}"));
    }
    if let Some(total) = product(&x.shape) {
        let rest: usize = out.iter().filter_map(|d| d.fixed()).product();
        let fits = if open == 1 { rest > 0 && total.is_multiple_of(rest) } else { rest == total };
        if !fits {
            return Err(format!("expected {total} elements, found shape {shape:?}"));
        }
        if let Some(d) = out.iter_mut().find(|d| d.fixed().is_none()) {
            *d = Dim::Fixed(total / rest);
        }
    }
    one(x.dtype, out)
}

fn transpose(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let perm = c.ints("perm").ok_or("parameter `perm` is missing")?;
    let rank = x.shape.len();
    let order = perm
        .iter()
        .map(|&p| axis(p, rank))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("parameter `perm`: {e}"))?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(format!("parameter `perm`: expected a permutation of {rank} axes, found {perm:?}"));
    }
    one(x.dtype, order.into_iter().map(|p| x.shape[p]).collect())
}

fn expand_dims(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let count = c.ints("axes").ok_or("parameter `axes` is missing")?.len();
    let axes = c.axes("axes", x.shape.len() + count)?;
    let mut shape = x.shape.clone();
    axes.iter().for_each(|&a| shape.insert(a, Dim::Fixed(1)));
    one(x.dtype, shape)
}

fn squeeze(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let axes = match c.ints("axes") {
        Some(_) => c.axes("axes", x.shape.len())?,
        None => (0..x.shape.len()).filter(|&i| x.shape[i] == Dim::Fixed(1)).collect(),
    };
    if let Some(&a) = axes.iter().find(|&&a| x.shape[a].fixed().is_some_and(|n| n != 1)) {
        return Err(format!("parameter `axes`: expected extent 1 at {a}, found {}", dims(&x.shape)));
    }
    let keep = (0..x.shape.len()).filter(|i| !axes.contains(i)).map(|i| x.shape[i]).collect();
    one(x.dtype, keep)
}

/// Types of the values of `concat` and `stack`.
fn values<'c>(c: &'c Call<'_>) -> Result<Vec<&'c TensorType>, String> {
    let all = c.args.get("values").map_or(&[][..], Vec::as_slice);
    let types = all.iter().map(|v| match &v.ty {
        ValueType::Tensor(t) => Ok(t),
        _ => Err(format!("parameter `values`: expected tensors, found `{}`", v.name())),
    });
    let types = types.collect::<Result<Vec<_>, _>>()?;
    let first = types.first().ok_or("parameter `values` is empty")?;
    match types.iter().find(|t| t.dtype != first.dtype || t.shape.len() != first.shape.len()) {
        Some(t) => Err(format!(
            "parameter `values`: expected {} {}, found {} {}",
            first.dtype,
            dims(&first.shape),
            t.dtype,
            dims(&t.shape)
        )),
        None => Ok(types),
    }
}

fn concat(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let types = values(c)?;
    let mut out = types[0].clone();
    if out.shape.is_empty() {
        // Scalars become a vector.
        return one(out.dtype, vec![Dim::Fixed(types.len())]);
    }
    let at = c.axis("axis", 0, out.shape.len())?;
    let mut total = Some(0usize);
    for t in &types {
        total = total.zip(t.shape[at].fixed()).and_then(|(n, d)| n.checked_add(d));
        for (i, (o, d)) in out.shape.iter_mut().zip(&t.shape).enumerate().filter(|(i, _)| *i != at) {
            match (*o, *d) {
                (Dim::Fixed(a), Dim::Fixed(b)) if a != b => {
                    return Err(format!("parameter `values`: extents {a} and {b} of axis {i} differ"));
                }
                (Dim::Unknown, Dim::Fixed(_)) => *o = *d,
                _ => {}
            }
        }
    }
    out.shape[at] = total.map_or(Dim::Unknown, Dim::Fixed);
    one(out.dtype, out.shape)
}

fn stack(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let types = values(c)?;
    let first = types[0];
    if let Some(other) = types.iter().find(|t| t.shape != first.shape) {
        return Err(format!("parameter `values`: expected {}, found {}", dims(&first.shape), dims(&other.shape)));
    }
    let mut shape = first.shape.clone();
    shape.insert(c.axis("axis", 0, shape.len() + 1)?, Dim::Fixed(types.len()));
    one(first.dtype, shape)
}

fn split(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let at = c.axis("axis", 0, x.shape.len())?;
    let total = x.shape[at].fixed();
    let sizes: Vec<Dim> = match (c.ints("split_sizes"), c.ints("num_splits").and_then(|n| n.first().copied())) {
        (Some(sizes), _) => {
            if let Some(total) = total.filter(|&t| sizes.iter().sum::<i64>() != t as i64) {
                return Err(format!("parameter `split_sizes`: expected a sum of {total}, found {sizes:?}"));
            }
            sizes.into_iter().map(extent).collect()
        }
        (None, Some(n)) if (1..=1 << 16).contains(&n) => {
            let n = n as usize;
            if let Some(total) = total.filter(|t| !t.is_multiple_of(n)) {
                return Err(format!("parameter `num_splits`: expected a divisor of {total}, found {n}"));
            }
            vec![total.map_or(Dim::Unknown, |t| Dim::Fixed(t / n)); n]
        }
        _ => return Err("expected `split_sizes` or `num_splits`".to_owned()),
    };
    let part = |d: Dim| {
        let mut shape = x.shape.clone();
        shape[at] = d;
        arg::tensor(x.dtype, shape)
    };
    Ok(sizes.into_iter().map(part).collect())
}

fn tile(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let Some(reps) = c.ints("reps") else { return one(x.dtype, vec![Dim::Unknown; x.shape.len()]) };
    if reps.len() != x.shape.len() || reps.iter().any(|&r| r < 1) {
        return Err(format!("parameter `reps`: expected {} positive numbers, found {reps:?}", x.shape.len()));
    }
    let times =
        |(d, &r): (&Dim, &i64)| d.fixed().and_then(|n| n.checked_mul(r as usize)).map_or(Dim::Unknown, Dim::Fixed);
    one(x.dtype, x.shape.iter().zip(&reps).map(times).collect())
}

fn pad(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let Some(pad) = c.ints("pad") else { return one(x.dtype, vec![Dim::Unknown; x.shape.len()]) };
    let axes = pad.len() / 2;
    if !pad.len().is_multiple_of(2) || axes > x.shape.len() || pad.iter().any(|&p| p < 0) {
        return Err(format!(
            "parameter `pad`: expected two numbers for each of at most {} axes, found {pad:?}",
            x.shape.len()
        ));
    }
    let mut shape = x.shape.clone();
    let skip = shape.len() - axes;
    for (d, p) in shape[skip..].iter_mut().zip(pad.chunks(2)) {
        *d = d.fixed().map_or(Dim::Unknown, |n| extent(n as i64 + p[0] + p[1]));
    }
    one(x.dtype, shape)
}

fn flatten2d(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let at = c.int("axis", 1).rem_euclid(x.shape.len() as i64 + 1) as usize;
    let part = |s: &[Dim]| product(s).map_or(Dim::Unknown, Dim::Fixed);
    one(x.dtype, vec![part(&x.shape[..at]), part(&x.shape[at..])])
}

fn fill(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let dtype = c.var("value").and_then(|v| v.dtype()).unwrap_or(DataType::F32);
    match c.ints("shape") {
        Some(shape) => one(dtype, shape.into_iter().map(extent).collect()),
        None => {
            one(dtype, vec![Dim::Unknown; c.ty("shape")?.shape.first().and_then(|d| d.fixed()).unwrap_or(1).min(5)])
        }
    }
}

fn without(shape: &[Dim], axes: &[usize], keep: bool) -> Vec<Dim> {
    let at = |i: usize| if axes.contains(&i) { keep.then_some(Dim::Fixed(1)) } else { Some(shape[i]) };
    (0..shape.len()).filter_map(at).collect()
}

fn reduce(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    one(x.dtype, without(&x.shape, &c.axes("axes", x.shape.len())?, c.flag("keep_dims")))
}

fn argument(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let at = c.axis("axis", -1, x.shape.len())?;
    let dtype = c.text("output_dtype").and_then(DataType::from_name).unwrap_or(DataType::I32);
    one(dtype, without(&x.shape, &[at], c.flag("keep_dims")))
}

/// Blocks of pixels to or from channels.
fn blocks(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let names = ["block_size", "upscale_factor", "downscale_factor"];
    let size =
        names.iter().find_map(|n| c.ints(n)?.first().copied()).filter(|&n| n > 0).ok_or("expected a positive size")?
            as usize;
    let &[n, ch, h, w] = x.shape.as_slice() else {
        return Err(format!("expected x of rank 4, found {}", dims(&x.shape)));
    };
    let times = |d: Dim, f: usize| d.fixed().and_then(|n| n.checked_mul(f)).map_or(Dim::Unknown, Dim::Fixed);
    let over = |d: Dim, f: usize| match d.fixed() {
        Some(n) if !n.is_multiple_of(f) => Err(format!("expected a multiple of {f}, found {n}")),
        Some(n) => Ok(Dim::Fixed(n / f)),
        None => Ok(Dim::Unknown),
    };
    let square = size.saturating_mul(size);
    if matches!(c.kind, "depth_to_space" | "pixel_shuffle") {
        one(x.dtype, vec![n, over(ch, square)?, times(h, size), times(w, size)])
    } else {
        one(x.dtype, vec![n, times(ch, square), over(h, size)?, over(w, size)?])
    }
}

fn plane(x: &TensorType, h: Dim, w: Dim) -> Result<Vec<ValueType>, String> {
    let rank = x.shape.len();
    if rank < 3 {
        return Err(format!("expected x of rank 3 or more, found {}", dims(&x.shape)));
    }
    let mut shape = x.shape.clone();
    (shape[rank - 2], shape[rank - 1]) = (h, w);
    one(x.dtype, shape)
}

fn upsample(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let rank = x.shape.len().max(2);
    // Fractions are left to a declaration.
    let factor = |name: &str| if c.has(name) { c.ints(name).and_then(|v| v.first().copied()) } else { Some(1) };
    let times = |i: usize, f: Option<i64>| match (x.shape.get(i).and_then(|d| d.fixed()), f) {
        (Some(n), Some(f)) => extent(n as i64 * f),
        _ => Dim::Unknown,
    };
    plane(x, times(rank - 2, factor("scale_factor_height")), times(rank - 1, factor("scale_factor_width")))
}

fn resize(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    plane(c.ty("x")?, extent(c.int("target_size_height", 1)), extent(c.int("target_size_width", 1)))
}

fn crop(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let rank = x.shape.len().max(2);
    let cut = |i: usize, name: &str| {
        let by: i64 = c.ints(name).unwrap_or_default().iter().sum();
        x.shape.get(i).and_then(|d| d.fixed()).map_or(Dim::Unknown, |n| extent(n as i64 - by))
    };
    plane(x, cut(rank - 2, "crop_height"), cut(rank - 1, "crop_width"))
}
