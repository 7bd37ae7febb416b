//! Gather and scatter.
//!
//! Semantics follow the reference documentation of coremltools' `scatter_gather` chapter: negative indices count from
//! the end. From opset iOS17 on, negative indices are out of range. With `validate_indices`, indices out of range are
//! an error; without it, the specification leaves their effect open: here, writes skip them, and reads count negative
//! ones from the end and reject the others.

use candle_core::Tensor;
use coreml_format::program::Opset;
use coreml_kernels::elementwise::map;
use coreml_kernels::gather::{AxisIndices, FILL, Indices, Outside};
use coreml_kernels::scatter;

use crate::array::Array;
use crate::batch;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::rearrange::{outside as refused, pick_along, pick_dim, pick_slices};
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

/// Handling of indices out of range in an operation that writes: before opset iOS17 negative ones count from the end.
fn writing(b: &OpBuilder<'_>) -> Result<Outside, OpError> {
    Ok(match b.attr_since(Opset::Ios17, "validate_indices", false)? {
        _ if !b.since(Opset::Ios17) => Outside::Wrap,
        true => Outside::Refuse,
        false => Outside::Skip,
    })
}

/// Handling of indices out of range in an operation that reads.
fn reading(b: &OpBuilder<'_>) -> Result<Outside, OpError> {
    let validate = b.attr_since(Opset::Ios17, "validate_indices", false)?;
    Ok(if validate { Outside::Refuse } else { Outside::Wrap })
}

/// The positions of all indices of an array in an extent; [`FILL`] for what is skipped.
fn positions(index: &Array, n: usize, outside: Outside) -> Result<Vec<usize>, OpError> {
    index.with_i64s(|at| {
        let all = Indices { at, n, outside }.positions();
        budget::try_collect(all.map(|at| at.map_err(|index| refused(index, n))))
    })?
}

/// `gather(x, indices, axis = 0, batch_dims = 0 (iOS16), validate_indices = false (iOS17))`.
fn gather(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, indices) = (b.slot("x")?, b.slot("indices")?);
    let axis = b.param_or("axis", 0i64)?;
    let batch_dims = b.attr_since(Opset::Ios16, "batch_dims", 0i64)?;
    let outside = reading(b)?;
    b.run(move |f| {
        let index = f.array(indices)?;
        if let Value::Weight(w) = f.value(x)? {
            // An embedding table: only the requested rows are expanded.
            if *axis.get(f)? == 0 && batch_dims == 0 && w.dtype().is_float() && !w.shape().is_empty() {
                let n = w.shape().first().copied().unwrap_or(0);
                let rows = positions(&index, n, outside)?;
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
        let chosen = positions(&index, n, outside)?;
        let mut shape = dims[..axis].to_vec();
        shape.extend(&index.shape()[batch..]);
        shape.extend(&dims[axis + 1..]);
        check_size(&shape)?;
        if batch == 0 {
            let t = pick_dim(x.tensor(), axis, AxisIndices::At(chosen))?;
            return one(x.with(layout::reshape(&t, &shape)?));
        }
        // Slices `[batches, outer, n]` of `inner` elements.
        let inner: usize = dims[axis + 1..].iter().product();
        let batches: usize = dims[..batch].iter().product();
        let outer: usize = dims[batch..axis].iter().product();
        let per_batch: usize = index.shape()[batch..].iter().product();
        let rows = |at: usize| chosen[at / outer * per_batch..][..per_batch].iter().map(move |&i| (at * n + i) * inner);
        let count = (batches * outer).saturating_mul(per_batch);
        let starts = budget::collect_most(count, (0..batches * outer).flat_map(rows))?;
        one(x.with(pick_slices(x.tensor(), &starts, inner, &shape)?))
    })
}

/// Flat positions in `x` of the elements that `index`, of the updates' shape, selects along `axis`.
fn along(x: &[usize], index: &Array, axis: usize, outside: Outside) -> Result<Vec<usize>, OpError> {
    let (shape, steps) = (index.shape(), strides(x));
    let mut all = positions(index, x[axis], outside)?;
    let last = shape.len() - 1;
    let step = if last == axis { 0 } else { steps[last] };
    // Coordinates of a row, without the last one.
    let mut row = vec![0; last];
    for positions in all.chunks_exact_mut(shape[last].max(1)) {
        let others = row.iter().zip(&steps).enumerate().filter(|(d, _)| *d != axis);
        let first: usize = others.map(|(_, (at, step))| at * step).sum();
        for (i, at) in positions.iter_mut().enumerate().filter(|(_, at)| **at != FILL) {
            *at = first + i * step + *at * steps[axis];
        }
        for (at, &n) in row.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < n {
                break;
            }
            *at = 0;
        }
    }
    Ok(all)
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
    let outside = reading(b)?;
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
        one(x.with(index.with_i64s(|at| pick_along(&part, axis, Indices { at, n, outside }, shape[axis]))??))
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
    let count: usize = index.shape()[..index.rank() - 1].iter().product();
    let per_batch = index.shape()[batch..index.rank() - 1].iter().product::<usize>().max(1);
    let batch_size: usize = x[batch..].iter().product();
    let mut starts = budget::room(count)?;
    index.with_i64s(|values| {
        for k in 0..count {
            let mut start = k / per_batch * batch_size;
            for d in 0..depth {
                let all = Indices { at: &[], n: x[batch + d], outside };
                match all.position(values[k * depth + d]).map_err(|index| refused(index, all.n))? {
                    FILL => start = FILL,
                    at if start != FILL => start += at * step[batch + d],
                    _ => {}
                }
            }
            starts.push(start);
        }
        Ok((starts, size))
    })?
}

/// `gather_nd(x, indices, batch_dims = 0 (iOS16), validate_indices = false (iOS17))`.
fn gather_nd(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, indices) = (b.slot("x")?, b.slot("indices")?);
    let batch = b.attr_since(Opset::Ios16, "batch_dims", 0i64)?;
    let batch = usize::try_from(batch).map_err(|_| OpError::shape("negative batch_dims"))?;
    let outside = reading(b)?;
    b.run(move |f| {
        let (x, index) = (f.array(x)?, f.array(indices)?);
        let (starts, size) = slices(x.shape(), &index, batch, outside)?;
        let depth = index.shape()[index.rank() - 1];
        let mut shape = index.shape()[..index.rank() - 1].to_vec();
        shape.extend(&x.shape()[batch + depth..]);
        check_size(&shape)?;
        one(x.with(pick_slices(x.tensor(), &starts, size, &shape)?))
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

/// Where updates go.
enum Places<'a> {
    /// Slices of so many elements, from each start on.
    Slices(&'a [usize], usize),
    /// Along the middle of `[outer, n, inner]`; the updates are `[outer, m, inner]`.
    Along(Indices<'a>, [usize; 2]),
}

impl Places<'_> {
    fn join<T: Copy + Send + Sync>(
        &self,
        data: &mut [T],
        updates: &[T],
        join: impl Fn(T, T) -> T + Sync,
    ) -> Result<(), OpError> {
        match *self {
            Places::Slices(starts, size) => {
                scatter::slices(data, starts, size, updates, join);
                Ok(())
            }
            Places::Along(indices, extents) => {
                scatter::along(data, indices, extents, updates, join).map_err(|index| refused(index, indices.n))
            }
        }
    }
}

/// Writes `updates` to their places in `data`, combined by `mode`.
fn write(data: &Array, places: &Places<'_>, updates: &Array, mode: Mode) -> Result<Array, OpError> {
    macro_rules! combine {
        ($data:expr, $updates:expr) => {{
            let (data, updates) = ($data, $updates);
            match mode {
                Mode::Update => places.join(data, updates, |_, u| u),
                Mode::Add => places.join(data, updates, |old, u| old + u),
                Mode::Sub => places.join(data, updates, |old, u| old - u),
                Mode::Mul => places.join(data, updates, |old, u| old * u),
                Mode::Div => places.join(data, updates, |old, u| old / u),
                Mode::Max => places.join(data, updates, |old, u| if u > old { u } else { old }),
                Mode::Min => places.join(data, updates, |old, u| if u < old { u } else { old }),
            }
        }};
    }
    let device = data.tensor().device();
    if data.dtype().is_float() {
        budget::claim(data.bytes())?;
        let mut all = data.with_rows(|data| map(data, |x: f32| x))?;
        updates.with_rows(|updates| combine!(&mut all, updates))??;
        return Array::from_f32(all, data.shape(), data.dtype(), device);
    }
    let mut all = data.to_i64s()?;
    updates.with_i64s(|updates| {
        if mode == Mode::Div && updates.contains(&0) {
            return Err(OpError::data("division by zero"));
        }
        combine!(&mut all, updates)
    })??;
    Array::new(Tensor::from_vec(all, data.shape(), device)?, data.dtype())
}

/// `scatter(data, indices, updates, axis = 0, mode = "add", validate_indices = false)`.
fn scatter(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (data, indices, updates) = (b.slot("data")?, b.slot("indices")?, b.slot("updates")?);
    let axis = b.param_or("axis", 0i64)?;
    let (mode, outside) = (Mode::new(b)?, writing(b)?);
    b.run(move |f| {
        let (data, index, updates) = (f.array(data)?, f.array(indices)?, f.array(updates)?);
        let axis = resolve_axis(*axis.get(f)?, data.rank())?;
        let (n, dims) = (data.shape()[axis], data.shape());
        let (outer, inner): (usize, usize) = (dims[..axis].iter().product(), dims[axis + 1..].iter().product());
        let chosen = positions(&index, n, outside)?;
        check_updates(&updates, chosen.len().checked_mul(outer).and_then(|k| k.checked_mul(inner)))?;
        let place = |o: usize, i: usize| if i == FILL { FILL } else { (o * n + i) * inner };
        let all = (0..outer).flat_map(|o| chosen.iter().map(move |&i| place(o, i)));
        let starts = budget::collect_most(outer * chosen.len(), all)?;
        one(write(&data, &Places::Slices(&starts, inner), &updates, mode)?)
    })
}

/// `scatter_along_axis(data, indices, updates, axis = 0, mode = "add", validate_indices = false)`.
fn scatter_along_axis(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (data, indices, updates) = (b.slot("data")?, b.slot("indices")?, b.slot("updates")?);
    let axis = b.param_or("axis", 0i64)?;
    let (mode, outside) = (Mode::new(b)?, writing(b)?);
    b.run(move |f| {
        let (data, index, updates) = (f.array(data)?, f.array(indices)?, f.array(updates)?);
        let axis = resolve_axis(*axis.get(f)?, data.rank())?;
        let (shape, n) = (index.shape(), data.shape()[axis]);
        check_along(data.shape(), shape, axis)?;
        check_updates(&updates, Some(index.tensor().elem_count()))?;
        if (0..shape.len()).all(|d| d == axis || shape[d] == data.shape()[d]) {
            let extents = [shape[axis], shape[axis + 1..].iter().product()];
            let along = |at: &[i64]| write(&data, &Places::Along(Indices { at, n, outside }, extents), &updates, mode);
            return one(index.with_i64s(along)??);
        }
        let starts = along(data.shape(), &index, axis, outside)?;
        one(write(&data, &Places::Slices(&starts, 1), &updates, mode)?)
    })
}

/// `scatter_nd(data, indices, updates, mode = "add", validate_indices = false)`.
fn scatter_nd(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (data, indices, updates) = (b.slot("data")?, b.slot("indices")?, b.slot("updates")?);
    let (mode, outside) = (Mode::new(b)?, writing(b)?);
    b.run(move |f| {
        let (data, index, updates) = (f.array(data)?, f.array(indices)?, f.array(updates)?);
        let (starts, size) = slices(data.shape(), &index, 0, outside)?;
        check_updates(&updates, starts.len().checked_mul(size))?;
        one(write(&data, &Places::Slices(&starts, size), &updates, mode)?)
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
