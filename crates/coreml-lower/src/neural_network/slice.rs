//! Parts of a blob, and blobs put together.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::slice::{
    Concat, ConcatNd, Crop, Slice, SliceAxis, SliceBySize, SliceDynamic, SliceStatic, SlidingWindows, Split, SplitNd,
    Stack,
};

use coreml_format::program::{Argument, Binding, Value};

use super::build::{Blob, Extent, Network, all, flag, flags, int, ints, of, tensor};
use super::convolution::borders;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// The elements of a range of an axis, as Python counts them.
fn range(
    n: &Network,
    extent: usize,
    (start, end, step): (Option<i64>, Option<i64>, i64),
) -> Lowered<(i64, i64, usize)> {
    let size = extent as i64;
    let from_end = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let at = |v: Option<i64>, open: i64| v.map_or(open, |v| from_end(v).clamp(low, high));
    let (open_start, open_end) = if step > 0 { (0, size) } else { (size - 1, -1) };
    let (start, end) = (at(start, open_start), at(end, open_end));
    let count = if step > 0 { (end - start + step - 1).max(0) / step } else { (start - end - step - 1).max(0) / -step };
    if count == 0 {
        return n.refuse(format!("its range of an extent of {extent} is empty"));
    }
    Ok((start, end, count as usize))
}

/// Some elements of one axis of the value.
fn cut(n: &mut Network, x: &Blob, axis: usize, bounds: (Option<i64>, Option<i64>, i64)) -> Lowered<Blob> {
    let extent = n.known("size", x.shape[axis])?;
    n.size("stride", bounds.2)?;
    let (start, end, count) = range(n, extent, bounds)?;
    let rank = x.shape.len();
    let vector = |v: i64, other: i32| -> Lowered<Vec<i32>> {
        let mut all = vec![other; rank];
        all[axis] = n.size("index", v)?;
        Ok(all)
    };
    let others: Vec<bool> = (0..rank).map(|i| i != axis).collect();
    let ends: Vec<bool> = others.iter().map(|&other| other || end < 0).collect();
    let mut shape = x.shape.clone();
    shape[axis] = Some(count);
    let inputs = vec![
        ("x", of(x)),
        ("begin", ints(&vector(start, 0)?)),
        ("end", ints(&vector(end.max(0), 0)?)),
        ("stride", ints(&vector(bounds.2, 1)?)),
        ("begin_mask", flags(&others)),
        ("end_mask", flags(&ends)),
    ];
    Ok(Blob { short: x.short, ..n.op("slice_by_index", inputs, shape) })
}

pub(super) fn slice(n: &mut Network, layer: &NeuralNetworkLayer, p: &Slice) -> Lowered<()> {
    let x = n.only(layer)?;
    let axis = match n.choice("axis", p.axis)? {
        SliceAxis::Channel => -3,
        SliceAxis::Height => -2,
        SliceAxis::Width => -1,
    };
    let (x, axis) = n.axis(&x, axis)?;
    let stride = i64::from(n.size("stride", p.stride.max(1))?);
    let y = cut(n, &x, axis, (Some(p.start_index), Some(p.end_index), stride))?;
    n.write(layer, vec![y])
}

pub(super) fn slice_static(n: &mut Network, layer: &NeuralNetworkLayer, p: &SliceStatic) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    sliced(n, layer, x, p)
}

/// The ranges of a blob of a known shape.
fn sliced(n: &mut Network, layer: &NeuralNetworkLayer, mut x: Blob, p: &SliceStatic) -> Lowered<()> {
    let rank = x.shape.len();
    let lengths = [p.begin_ids.len(), p.end_ids.len(), p.strides.len(), p.begin_masks.len(), p.end_masks.len()];
    if lengths != [rank; 5] || !(p.squeeze_masks.is_empty() || p.squeeze_masks.len() == rank) {
        return n.refuse(format!("its parameters have {lengths:?} values for a blob of rank {rank}"));
    }
    let squeezed = |i: usize| p.squeeze_masks.get(i) == Some(&true);
    for i in 0..rank {
        let (begin, end) = (p.begin_ids[i], p.end_ids[i]);
        let bounds = match squeezed(i) {
            true => (Some(begin), Some(begin.saturating_add(1)).filter(|&e| e != 0), 1),
            false => ((!p.begin_masks[i]).then_some(begin), (!p.end_masks[i]).then_some(end), p.strides[i]),
        };
        if bounds.2 == 0 {
            return n.refuse("a stride is 0");
        }
        if bounds != (None, None, 1) {
            x = cut(n, &x, i, bounds)?;
        }
    }
    let mut which: Vec<i32> = (0..rank).filter(|&i| squeezed(i)).map(|i| i as i32).collect();
    if which.len() == rank {
        which.remove(0);
    }
    let y = match which.is_empty() {
        true => x,
        false => {
            let shape = (0..rank).filter(|i| !which.contains(&(*i as i32))).map(|i| x.shape[i]).collect();
            n.op("squeeze", vec![("x", of(&x)), ("axes", ints(&which))], shape)
        }
    };
    n.write(layer, vec![y])
}

/// A parameter that an input may give: its elements if they are constants.
fn given<T: Copy>(
    n: &mut Network,
    layer: &NeuralNetworkLayer,
    i: usize,
    field: &[T],
    from: impl Fn(i64) -> T,
) -> Lowered<Result<Vec<T>, Blob>> {
    if i >= layer.input.len() {
        return Ok(Ok(field.to_vec()));
    }
    let x = n.input(layer, i)?;
    match n.integers(&x) {
        Some(known) => Ok(Ok(known.into_iter().map(from).collect())),
        None => Ok(Err(n.list(&x)?)),
    }
}

/// Masks, which must be constants: they say which axes there are.
fn masks(n: &mut Network, layer: &NeuralNetworkLayer, i: usize, field: &[bool], rank: usize) -> Lowered<Vec<bool>> {
    match given(n, layer, i, field, |v| v != 0)? {
        Ok(masks) if masks.is_empty() => Ok(vec![false; rank]),
        Ok(masks) => match fitted(masks, rank, false) {
            masks if masks.len() == rank => Ok(masks),
            masks => n.refuse(format!("{} masks for a blob of rank {rank}", masks.len())),
        },
        Err(_) => n.refuse("its masks are computed"),
    }
}

/// A parameter without the values beyond the rank of the blob: coremltools writes five, of a default, whatever the rank.
fn fitted<T: Copy + PartialEq>(mut values: Vec<T>, rank: usize, default: T) -> Vec<T> {
    if values.len() > rank && values[rank..].iter().all(|&v| v == default) {
        values.truncate(rank);
    }
    values
}

pub(super) fn slice_dynamic(n: &mut Network, layer: &NeuralNetworkLayer, p: &SliceDynamic) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let x = n.full(&x);
    let rank = x.shape.len();
    if !(2..=7).contains(&layer.input.len()) {
        return n.refuse(format!("it has {} inputs", layer.input.len()));
    }
    let begin = given(n, layer, 1, &[], |v| v)?;
    let end = given(n, layer, 2, &p.end_ids, |v| v)?.map(|ids| fitted(ids, rank, 1));
    let stride = given(n, layer, 3, &p.strides, |v| v)?.map(|strides| fitted(strides, rank, 1));
    let begin_masks = masks(n, layer, 4, &p.begin_masks, rank)?;
    let end_masks = masks(n, layer, 5, &p.end_masks, rank)?;
    let squeezed = masks(n, layer, 6, &p.squeeze_masks, rank)?;
    if let (Ok(begin), Ok(end), Ok(stride)) = (&begin, &end, &stride)
        && x.shape.iter().all(Option::is_some)
    {
        let fixed = SliceStatic {
            begin_ids: begin.clone(),
            begin_masks,
            end_ids: if end.is_empty() { vec![0; rank] } else { end.clone() },
            end_masks,
            strides: if stride.is_empty() { vec![1; rank] } else { stride.clone() },
            squeeze_masks: squeezed,
        };
        return sliced(n, layer, x, &fixed);
    }
    let shape: Vec<Extent> = (0..rank)
        .map(|i| match &stride {
            _ if squeezed[i] => Some(1),
            Ok(strides) if begin_masks[i] && end_masks[i] && strides.get(i).is_none_or(|&s| s.abs() == 1) => x.shape[i],
            _ => None,
        })
        .collect();
    let argument = |n: &Network, what: &str, value: Result<Vec<i64>, Blob>, default: i32| match value {
        Err(blob) => Ok(of(&blob)),
        Ok(values) if values.is_empty() => Ok(ints(&vec![default; rank])),
        Ok(values) if values.len() == rank => Ok(ints(&n.sizes(what, &values)?)),
        Ok(values) => n.refuse(format!("{} values of `{what}` for a blob of rank {rank}", values.len())),
    };
    // An axis that is squeezed reads its begin alone.
    let inputs = vec![
        ("x", of(&x)),
        ("begin", argument(n, "beginIds", begin, 0)?),
        ("end", argument(n, "endIds", end, 0)?),
        ("stride", argument(n, "strides", stride, 1)?),
        ("begin_mask", flags(&begin_masks)),
        ("end_mask", flags(&end_masks)),
        ("squeeze_mask", flags(&squeezed)),
    ];
    let kept: Vec<Extent> = (0..rank).filter(|&i| !squeezed[i]).map(|i| shape[i]).collect();
    let mut y = n.op("slice_by_index", inputs, kept);
    if y.shape.is_empty() {
        // A blob has an axis at least.
        y = n.op("expand_dims", vec![("x", of(&y)), ("axes", ints(&[0]))], vec![Some(1)]);
    }
    n.write(layer, vec![y])
}

pub(super) fn slice_by_size(n: &mut Network, layer: &NeuralNetworkLayer, p: &SliceBySize) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let (x, axis) = n.axis(&x, p.axis)?;
    let size = n.size("size", p.size)?;
    let fits = x.shape[axis].is_none_or(|d| d >= size.max(0) as usize);
    if size < 1 || !fits || layer.input.len() != 2 {
        return n.refuse(format!("{size} elements of a blob of {}", super::build::shown(&x.shape)));
    }
    let begin = n.input(layer, 1)?;
    let begin = n.list(&begin)?;
    let mut parts = Vec::with_capacity(3);
    if axis > 0 {
        parts.push(Binding::Value(Value::ints(&vec![0; axis])));
    }
    parts.push(Binding::Name(begin.name));
    if axis + 1 < x.shape.len() {
        parts.push(Binding::Value(Value::ints(&vec![0; x.shape.len() - axis - 1])));
    }
    let inputs = vec![("values", Argument::Many(parts)), ("axis", int(0)), ("interleave", flag(false))];
    let begins = n.typed("concat", inputs, DataType::I32, vec![Some(x.shape.len())]);
    let mut sizes = vec![-1; x.shape.len()];
    sizes[axis] = size;
    let mut shape = x.shape.clone();
    shape[axis] = Some(size as usize);
    let y = n.op("slice_by_size", vec![("x", of(&x)), ("begin", of(&begins)), ("size", ints(&sizes))], shape);
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

pub(super) fn crop(n: &mut Network, layer: &NeuralNetworkLayer, p: &Crop) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let mut y = x.clone();
    match layer.input.len() {
        1 => {
            let [top, bottom, left, right] = borders(n, p.crop_amounts.as_ref())?;
            for (from_end, before, after) in [(-2, top, bottom), (-1, left, right)] {
                let (at, axis) = n.axis(&y, from_end)?;
                let size = n.known("size", at.shape[axis])?;
                let Some(end) = size.checked_sub(after).filter(|&e| e > before) else {
                    return n.refuse(format!("it crops {before} and {after} of {size}"));
                };
                y = cut(n, &at, axis, (Some(before as i64), Some(end as i64), 1))?;
            }
        }
        2 => {
            let like = n.input(layer, 1)?;
            let offset = match *p.offset {
                [] => [0, 0],
                [h, w] => [n.size("offset", h)? as usize, n.size("offset", w)? as usize],
                _ => return n.refuse(format!("`offset` is {:?}", p.offset)),
            };
            for (from_end, start) in [(2, offset[0]), (1, offset[1])] {
                let (at, axis) = n.axis(&y, -from_end)?;
                let (size, wanted) =
                    (n.known("size", at.shape[axis])?, n.known("size", like.nth_last(from_end as usize))?);
                if start.checked_add(wanted).is_none_or(|end| end > size) {
                    return n.refuse(format!("a window of {wanted} at {start} of {size}"));
                }
                y = cut(n, &at, axis, (Some(start as i64), Some((start + wanted) as i64), 1))?;
            }
        }
        inputs => return n.refuse(format!("it has {inputs} inputs")),
    }
    n.write(layer, vec![y])
}

/// All inputs along an axis of the blobs.
fn joined(n: &mut Network, layer: &NeuralNetworkLayer, axis: i64, interleave: bool) -> Lowered<Blob> {
    let mut parts = n.inputs(layer)?;
    let long = parts.iter().any(|p| !p.short) || n.axis(&parts[0].clone(), axis)?.0.short != parts[0].short;
    if long {
        parts = parts.iter().map(|p| n.full(p)).collect();
    }
    let (first, at) = n.axis(&parts[0].clone(), axis)?;
    let mut shape = first.shape.clone();
    let mut total: Extent = Some(0);
    for part in &parts {
        if part.shape.len() != shape.len() {
            return n.refuse("its inputs have several ranks");
        }
        total = total.zip(part.shape[at]).and_then(|(a, b)| a.checked_add(b));
        for i in (0..shape.len()).filter(|&i| i != at) {
            match (shape[i], part.shape[i]) {
                (Some(a), Some(b)) if a != b => return n.refuse(format!("extents {a} and {b} of its inputs differ")),
                (known, other) => shape[i] = known.or(other),
            }
        }
    }
    shape[at] = total;
    let inputs = vec![("values", all(&parts)), ("axis", int(at as i32)), ("interleave", flag(interleave))];
    Ok(Blob { short: !long, ..n.op("concat", inputs, shape) })
}

pub(super) fn concat(n: &mut Network, layer: &NeuralNetworkLayer, p: &Concat) -> Lowered<()> {
    let y = joined(n, layer, if p.sequence_concat { -5 } else { -3 }, false)?;
    n.write(layer, vec![y])
}

pub(super) fn concat_nd(n: &mut Network, layer: &NeuralNetworkLayer, p: &ConcatNd) -> Lowered<()> {
    let y = joined(n, layer, p.axis, p.interleave)?;
    n.write(layer, vec![y])
}

pub(super) fn stack(n: &mut Network, layer: &NeuralNetworkLayer, p: &Stack) -> Lowered<()> {
    let parts: Vec<Blob> = n.inputs(layer)?.iter().map(|b| n.full(b)).collect();
    let rank = parts[0].shape.len() as i64 + 1;
    let at = if p.axis < 0 { p.axis.saturating_add(rank) } else { p.axis };
    if !(0..rank).contains(&at) || parts.iter().any(|b| b.shape != parts[0].shape) {
        return n.refuse(format!("axis {} of a stack of blobs, or their shapes differ", p.axis));
    }
    let mut shape = parts[0].shape.clone();
    shape.insert(at as usize, Some(parts.len()));
    let y = n.op("stack", vec![("values", all(&parts)), ("axis", int(at as i32))], shape);
    n.write(layer, vec![y])
}

/// Parts of these sizes along an axis of the value.
fn parted(n: &mut Network, layer: &NeuralNetworkLayer, x: &Blob, axis: usize, sizes: &[usize]) -> Lowered<()> {
    let extent = n.known("size", x.shape[axis])?;
    if sizes.iter().try_fold(0usize, |sum, &s| sum.checked_add(s)) != Some(extent) || sizes.contains(&0) {
        return n.refuse(format!("parts of {sizes:?} of {extent}"));
    }
    let shapes: Vec<Vec<Extent>> = sizes
        .iter()
        .map(|&size| {
            let mut shape = x.shape.clone();
            shape[axis] = Some(size);
            shape
        })
        .collect();
    let inputs = vec![("x", of(x)), ("split_sizes", ints(&n.sizes("splitSizes", sizes)?)), ("axis", int(axis as i32))];
    let names = n.push("split", inputs, shapes.iter().map(|s| tensor(DataType::F32, s)).collect());
    let parts = names.into_iter().zip(shapes).map(|(name, shape)| Blob { name, shape, short: x.short }).collect();
    n.write(layer, parts)
}

/// `count` parts of the same size.
fn evenly(n: &Network, extent: Extent, count: u64) -> Lowered<Vec<usize>> {
    let extent = n.known("size", extent)?;
    match usize::try_from(count).ok().filter(|&c| c > 0 && extent.is_multiple_of(c)) {
        Some(count) => {
            n.claim("parts", count)?;
            Ok(vec![extent / count; count])
        }
        None => n.refuse(format!("{count} equal parts of {extent}")),
    }
}

pub(super) fn split(n: &mut Network, layer: &NeuralNetworkLayer, p: &Split) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, axis) = n.axis(&x, -3)?;
    let sizes = evenly(n, x.shape[axis], p.n_outputs)?;
    parted(n, layer, &x, axis, &sizes)
}

/// `count` parts, the first of which are larger by one if they can't be equal.
fn nearly(n: &Network, extent: Extent, count: u64) -> Lowered<Vec<usize>> {
    let extent = n.known("size", extent)?;
    match usize::try_from(count).ok().filter(|&c| c > 0 && c <= extent) {
        Some(count) => {
            n.claim("parts", count)?;
            Ok((0..count).map(|i| extent / count + usize::from(i < extent % count)).collect())
        }
        None => n.refuse(format!("{count} parts of {extent}")),
    }
}

pub(super) fn split_nd(n: &mut Network, layer: &NeuralNetworkLayer, p: &SplitNd) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, axis) = n.axis(&x, p.axis)?;
    let sizes = match p.split_sizes.is_empty() {
        true => nearly(n, x.shape[axis], p.num_splits)?,
        false => n.sizes("splitSizes", &p.split_sizes)?.iter().map(|&s| s.max(0) as usize).collect(),
    };
    parted(n, layer, &x, axis, &sizes)
}

pub(super) fn sliding_windows(n: &mut Network, layer: &NeuralNetworkLayer, p: &SlidingWindows) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let (x, axis) = n.axis(&x, p.axis)?;
    let (size, step) = (n.size("windowSize", p.window_size)?, n.size("step", p.step)?);
    let extent = n.known("size", x.shape[axis])?;
    let Some(room) = extent.checked_sub(size as usize).filter(|_| size > 0 && step > 0) else {
        return n.refuse(format!("windows of {size} each {step} of {extent}"));
    };
    // [M, W] in place of the axis.
    let y = windows(n, &x, axis, (size, step), room / step as usize + 1)?;
    n.write(layer, vec![y])
}

fn windows(n: &mut Network, x: &Blob, axis: usize, (size, step): (i32, i32), count: usize) -> Lowered<Blob> {
    let total = count.checked_mul(size as usize).filter(|&t| t < 1 << 24);
    let Some(indices) = total else { return n.refuse(format!("{count} windows of {size}")) };
    n.claim("elements of windows", indices)?;
    let indices: Vec<i32> = (0..count as i32).flat_map(|m| (0..size).map(move |w| m * step + w)).collect();
    let mut flat = x.shape.clone();
    flat[axis] = total;
    let inputs = vec![("x", of(x)), ("indices", ints(&indices)), ("axis", int(axis as i32))];
    let picked = n.op("gather", inputs, flat);
    let mut shape = x.shape.clone();
    shape.splice(axis..=axis, [Some(count), Some(size as usize)]);
    n.reshape(&picked, shape)
}
