//! Gather and scatter.
//!
//! Semantics follow the reference documentation of coremltools' `scatter_gather` chapter: negative indices count from
//! the end. From opset iOS17 on, negative indices are out of range. With `validate_indices`, indices out of range are
//! an error; without it, the specification leaves their effect open: here, writes skip them, and reads count negative
//! ones from the end and reject the others.

use candle_core::Tensor;
use coreml_format::program::Opset;
use coreml_kernels::gather::AxisIndices;

use crate::array::Array;
use crate::batch;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::rearrange::{pick_along, pick_dim};
use crate::shape::{check_size, resolve_axis};
use crate::value::Value;
use crate::weight::strides;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("gather", IOS15_16_17, gather).batch(batch::gather).kernel("rows of stored weights"),
    OpSpec::new("gather_along_axis", IOS15_16_17, gather_along_axis).kernel("gather"),
    OpSpec::new("gather_nd", IOS15_16_17, gather_nd).kernel("gather"),
    OpSpec::new("scatter", IOS15_17, scatter),
    OpSpec::new("scatter_along_axis", IOS15_17, scatter_along_axis),
    OpSpec::new("scatter_nd", IOS15_17, scatter_nd),
];

/// Resolves an index into an extent; negative ones count from the end.
fn at(index: i64, n: usize) -> Result<usize, OpError> {
    let i = if index < 0 { index + n as i64 } else { index };
    usize::try_from(i)
        .ok()
        .filter(|&i| i < n)
        .ok_or_else(|| OpError::shape(format!("index {index} of an extent of {n}")))
}

/// Marks a position that is not written.
const FILL: usize = usize::MAX;

/// Handling of indices out of range.
#[derive(Clone, Copy)]
enum Outside {
    /// Negative indices count from the end; others are errors (before opset iOS17).
    Wrap,
    /// An error, including negative indices.
    Refuse,
    /// Skipped.
    Skip,
}

impl Outside {
    /// Handling in an operation that writes.
    fn writing(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        Ok(match b.attr_since(Opset::Ios17, "validate_indices", false)? {
            _ if !b.since(Opset::Ios17) => Outside::Wrap,
            true => Outside::Refuse,
            false => Outside::Skip,
        })
    }

    /// Handling in an operation that reads.
    fn reading(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        let validate = b.attr_since(Opset::Ios17, "validate_indices", false)?;
        Ok(if validate { Outside::Refuse } else { Outside::Wrap })
    }

    /// Resolves all indices into an extent.
    fn all(self, indices: &[i64], n: usize) -> Result<Vec<usize>, OpError> {
        indices.iter().map(|&i| self.at(i, n)).collect()
    }

    fn at(self, index: i64, n: usize) -> Result<usize, OpError> {
        match self {
            Outside::Wrap => at(index, n),
            Outside::Refuse if index < 0 => Err(OpError::shape(format!("index {index} of an extent of {n}"))),
            Outside::Refuse => at(index, n),
            Outside::Skip => Ok(usize::try_from(index).ok().filter(|&i| i < n).unwrap_or(FILL)),
        }
    }
}

/// Elements of an array of any type.
enum Elements {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl Elements {
    fn array(self, like: &Array, shape: &[usize]) -> Result<Array, OpError> {
        let device = like.tensor().device();
        match self {
            Elements::Float(v) => Array::from_f32(v, shape, like.dtype(), device),
            Elements::Int(v) => Array::new(Tensor::from_vec(v, shape, device)?, like.dtype()),
        }
    }
}

/// `gather(x, indices, axis = 0, batch_dims = 0 (iOS16), validate_indices = false (iOS17))`.
fn gather(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, indices) = (b.slot("x")?, b.slot("indices")?);
    let axis = b.param_or("axis", 0i64)?;
    let batch_dims = b.attr_since(Opset::Ios16, "batch_dims", 0i64)?;
    let outside = Outside::reading(b)?;
    b.run(move |f| {
        let index = f.array(indices)?;
        if let Value::Weight(w) = f.value(x)? {
            // An embedding table: only the requested rows are expanded.
            if *axis.get(f)? == 0 && batch_dims == 0 && w.dtype().is_float() && !w.shape().is_empty() {
                let n = w.shape().first().copied().unwrap_or(0);
                let rows = outside.all(&index.to_i64s()?, n)?;
                let mut shape = index.shape().to_vec();
                shape.extend(&w.shape()[1..]);
                check_size(&shape)?;
                return one(Array::from_f32(w.rows(&rows)?, &shape, w.dtype(), f.device())?);
            }
        }
        let x = f.array(x)?;
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        let batch = usize::try_from(if batch_dims < 0 { batch_dims + index.rank() as i64 } else { batch_dims });
        let batch = batch.ok().filter(|&n| n <= axis && n <= index.rank());
        let batch = batch.ok_or_else(|| OpError::shape(format!("batch_dims {batch_dims} with axis {axis}")))?;
        if x.shape()[..batch] != index.shape()[..batch] {
            return Err(OpError::shape(format!("batches of {:?} and {:?}", x.shape(), index.shape())));
        }
        let (n, dims) = (x.shape()[axis], x.shape());
        let chosen = outside.all(&index.to_i64s()?, n)?;
        let mut shape = dims[..axis].to_vec();
        shape.extend(&index.shape()[batch..]);
        shape.extend(&dims[axis + 1..]);
        check_size(&shape)?;
        if batch == 0 {
            let t = pick_dim(x.tensor(), axis, AxisIndices::At(chosen))?;
            return one(x.with(layout::reshape(&t, &shape)?));
        }
        // Rows `[batches, outer, n]` of `inner` elements.
        let batches: usize = dims[..batch].iter().product();
        let outer: usize = dims[batch..axis].iter().product();
        let per_batch: usize = index.shape()[batch..].iter().product();
        let rows = |at: usize| chosen[at / outer * per_batch..][..per_batch].iter().map(move |&i| at * n + i);
        let count = (batches * outer).saturating_mul(per_batch);
        let places = budget::collect_most(count, (0..batches * outer).flat_map(rows))?;
        one(x.with(rows_of(&x, dims[axis + 1..].iter().product(), places, &shape)?))
    })
}

/// Gathers rows of `size` elements (in row-major order) to a tensor of this shape.
fn rows_of(x: &Array, size: usize, places: Vec<usize>, shape: &[usize]) -> Result<Tensor, OpError> {
    let rows = x.tensor().elem_count().checked_div(size).unwrap_or(0);
    if size == 0 || places.is_empty() {
        return Ok(Tensor::zeros(shape, x.tensor().dtype(), x.tensor().device())?);
    }
    let t = pick_dim(&layout::reshape(x.tensor(), &[rows, size])?, 0, AxisIndices::At(places))?;
    layout::reshape(&t, shape)
}

/// Flat positions in `x` of the elements that `index`, of the result's shape, selects along `axis`.
fn along(x: &[usize], index: &Array, axis: usize, outside: Outside) -> Result<Vec<usize>, OpError> {
    let shape = index.shape();
    check_along(x, shape, axis)?;
    let (indices, steps) = (index.to_i64s()?, strides(x));
    let mut positions = budget::room(indices.len())?;
    let last = shape.len() - 1;
    let step = if last == axis { 0 } else { steps[last] };
    // Coordinates of a row, without the last one.
    let mut row = vec![0; last];
    for indices in indices.chunks_exact(shape[last].max(1)) {
        let others = row.iter().zip(&steps).enumerate().filter(|(d, _)| *d != axis);
        let first: usize = others.map(|(_, (at, step))| at * step).sum();
        for (i, &index) in indices.iter().enumerate() {
            let at = outside.at(index, x[axis])?;
            positions.push(if at == FILL { FILL } else { first + i * step + at * steps[axis] });
        }
        for (at, &n) in row.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < n {
                break;
            }
            *at = 0;
        }
    }
    Ok(positions)
}

/// Checks that indices do not exceed the extents of `x`, except along `axis`.
fn check_along(x: &[usize], shape: &[usize], axis: usize) -> Result<(), OpError> {
    if shape.len() == x.len() && (0..x.len()).all(|d| d == axis || shape[d] <= x[d]) {
        return Ok(());
    }
    Err(OpError::shape(format!("indices {shape:?} for {x:?} along axis {axis}")))
}

/// `gather_along_axis(x, indices, axis = 0, validate_indices = false (iOS17))`.
fn gather_along_axis(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, indices) = (b.slot("x")?, b.slot("indices")?);
    let axis = b.param_or("axis", 0i64)?;
    let outside = Outside::reading(b)?;
    b.run(move |f| {
        let (x, index) = (f.array(x)?, f.array(indices)?);
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        let (shape, n) = (index.shape(), x.shape()[axis]);
        check_along(x.shape(), shape, axis)?;
        // Drop what the indices do not cover in the other dimensions.
        let mut part = x.tensor().clone();
        for d in (0..x.rank()).filter(|&d| d != axis && shape[d] < x.shape()[d]) {
            part = part.narrow(d, 0, shape[d])?;
        }
        one(x.with(pick_along(&part, axis, &outside.all(&index.to_i64s()?, n)?, shape[axis])?))
    })
}

/// Start of each slice selected by the last dimension of `index`, and the size of a slice.
fn slices(x: &[usize], index: &Array, batch: usize, outside: Outside) -> Result<(Vec<usize>, usize), OpError> {
    let depth = index.shape().last().copied().unwrap_or(0);
    if index.rank() == 0
        || batch + depth > x.len()
        || batch >= index.rank().max(1)
        || x[..batch] != index.shape()[..batch]
    {
        return Err(OpError::shape(format!("indices {:?} into {x:?}", index.shape())));
    }
    let size: usize = x[batch + depth..].iter().product();
    let step = strides(x);
    let values = index.to_i64s()?;
    let count: usize = index.shape()[..index.rank() - 1].iter().product();
    let per_batch = index.shape()[batch..index.rank() - 1].iter().product::<usize>().max(1);
    let batch_size: usize = x[batch..].iter().product();
    let mut starts = budget::room(count)?;
    for k in 0..count {
        let mut start = k / per_batch * batch_size;
        for d in 0..depth {
            match outside.at(values[k * depth + d], x[batch + d])? {
                FILL => start = FILL,
                at if start != FILL => start += at * step[batch + d],
                _ => {}
            }
        }
        starts.push(start);
    }
    Ok((starts, size))
}

/// `gather_nd(x, indices, batch_dims = 0 (iOS16), validate_indices = false (iOS17))`.
fn gather_nd(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, indices) = (b.slot("x")?, b.slot("indices")?);
    let batch = b.attr_since(Opset::Ios16, "batch_dims", 0i64)?;
    let batch = usize::try_from(batch).map_err(|_| OpError::shape("negative batch_dims"))?;
    let outside = Outside::reading(b)?;
    b.run(move |f| {
        let (x, index) = (f.array(x)?, f.array(indices)?);
        let (starts, size) = slices(x.shape(), &index, batch, outside)?;
        let depth = index.shape()[index.rank() - 1];
        let mut shape = index.shape()[..index.rank() - 1].to_vec();
        shape.extend(&x.shape()[batch + depth..]);
        check_size(&shape)?;
        let places = starts.into_iter().map(|s| s.checked_div(size).unwrap_or(0)).collect();
        one(x.with(rows_of(&x, size, places, &shape)?))
    })
}

/// Checks for one update per position, before the positions are computed.
fn check_updates(updates: &Array, positions: Option<usize>) -> Result<(), OpError> {
    if positions == Some(updates.tensor().elem_count()) {
        return Ok(());
    }
    let positions = positions.map_or_else(|| "too many".to_owned(), |n| n.to_string());
    Err(OpError::shape(format!("{:?} updates for {positions} positions", updates.shape())))
}

/// Combination of an update with the existing value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Update,
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
}

impl Mode {
    /// The parameter `mode = "add"`.
    fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        b.choice(
            "mode",
            &[
                ("add", Self::Add),
                ("update", Self::Update),
                ("sub", Self::Sub),
                ("mul", Self::Mul),
                ("div", Self::Div),
                ("max", Self::Max),
                ("min", Self::Min),
            ],
        )
    }
}

/// Joins each update with the element at its position, in order.
fn each<T: Copy>(mut data: Vec<T>, positions: &[usize], updates: Vec<T>, join: impl Fn(T, T) -> T) -> Vec<T> {
    for (&at, update) in positions.iter().zip(updates) {
        // No position lies outside but that of what is not written.
        if let Some(element) = data.get_mut(at) {
            *element = join(*element, update);
        }
    }
    data
}

/// Writes `updates` to `positions`, combined by `mode`.
fn write(data: &Array, positions: &[usize], updates: &Array, mode: Mode) -> Result<Array, OpError> {
    check_updates(updates, Some(positions.len()))?;
    macro_rules! combine {
        ($data:expr, $updates:expr) => {{
            let (data, updates) = ($data, $updates);
            match mode {
                Mode::Update => each(data, positions, updates, |_, u| u),
                Mode::Add => each(data, positions, updates, |old, u| old + u),
                Mode::Sub => each(data, positions, updates, |old, u| old - u),
                Mode::Mul => each(data, positions, updates, |old, u| old * u),
                Mode::Div => each(data, positions, updates, |old, u| old / u),
                Mode::Max => each(data, positions, updates, |old, u| if u > old { u } else { old }),
                Mode::Min => each(data, positions, updates, |old, u| if u < old { u } else { old }),
            }
        }};
    }
    let elements = if data.dtype().is_float() {
        Elements::Float(combine!(data.to_f32s()?, updates.to_f32s()?))
    } else {
        if mode == Mode::Div && updates.to_i64s()?.contains(&0) {
            return Err(OpError::data("division by zero"));
        }
        Elements::Int(combine!(data.to_i64s()?, updates.to_i64s()?))
    };
    elements.array(data, data.shape())
}

/// `scatter(data, indices, updates, axis = 0, mode = "add", validate_indices = false)`.
fn scatter(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (data, indices, updates) = (b.slot("data")?, b.slot("indices")?, b.slot("updates")?);
    let axis = b.param_or("axis", 0i64)?;
    let (mode, outside) = (Mode::new(b)?, Outside::writing(b)?);
    b.run(move |f| {
        let (data, index, updates) = (f.array(data)?, f.array(indices)?, f.array(updates)?);
        let axis = resolve_axis(*axis.get(f)?, data.rank())?;
        let (n, dims) = (data.shape()[axis], data.shape());
        let (outer, inner): (usize, usize) = (dims[..axis].iter().product(), dims[axis + 1..].iter().product());
        let chosen = budget::try_collect(index.to_i64s()?.into_iter().map(|i| outside.at(i, n)))?;
        check_updates(&updates, chosen.len().checked_mul(outer).and_then(|k| k.checked_mul(inner)))?;
        let mut positions = budget::room(updates.tensor().elem_count())?;
        for o in 0..outer {
            for &i in &chosen {
                match i {
                    FILL => positions.extend(std::iter::repeat_n(FILL, inner)),
                    i => positions.extend((o * n + i) * inner..(o * n + i + 1) * inner),
                }
            }
        }
        one(write(&data, &positions, &updates, mode)?)
    })
}

/// `scatter_along_axis(data, indices, updates, axis = 0, mode = "add", validate_indices = false)`.
fn scatter_along_axis(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (data, indices, updates) = (b.slot("data")?, b.slot("indices")?, b.slot("updates")?);
    let axis = b.param_or("axis", 0i64)?;
    let (mode, outside) = (Mode::new(b)?, Outside::writing(b)?);
    b.run(move |f| {
        let (data, index, updates) = (f.array(data)?, f.array(indices)?, f.array(updates)?);
        let axis = resolve_axis(*axis.get(f)?, data.rank())?;
        let positions = along(data.shape(), &index, axis, outside)?;
        one(write(&data, &positions, &updates, mode)?)
    })
}

/// `scatter_nd(data, indices, updates, mode = "add", validate_indices = false)`.
fn scatter_nd(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (data, indices, updates) = (b.slot("data")?, b.slot("indices")?, b.slot("updates")?);
    let (mode, outside) = (Mode::new(b)?, Outside::writing(b)?);
    b.run(move |f| {
        let (data, index, updates) = (f.array(data)?, f.array(indices)?, f.array(updates)?);
        let (starts, size) = slices(data.shape(), &index, 0, outside)?;
        check_updates(&updates, starts.len().checked_mul(size))?;
        let all = starts.into_iter().flat_map(|s| (0..size).map(move |i| if s == FILL { FILL } else { s + i }));
        let positions: Vec<usize> = budget::collect_most(updates.tensor().elem_count(), all)?;
        one(write(&data, &positions, &updates, mode)?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn gather_counts_from_the_end_and_refuses_what_is_outside() {
        let body = |at: i32| {
            format!("tensor<fp32, [1]> y = gather(x = x, indices = tensor<int32, [1]>([{at}]), axis = int32(0));")
        };
        near(&of(&body(-1), &[3], &[1.0, 2.0, 3.0]), &[3.0]);
        refused(&body(3), &[3], &[1.0, 2.0, 3.0], "gather");
    }

    #[test]
    fn scatter_adds_what_falls_on_one_place() {
        let body = "tensor<fp32, [3]> y = scatter(data = x, indices = tensor<int32, [2]>([1, 1]), updates = tensor<fp32, [2]>([10, 20]), \
            axis = int32(0), mode = string(\"add\"));";
        near(&of(body, &[3], &[1.0, 2.0, 3.0]), &[1.0, 32.0, 3.0]);
    }
}
