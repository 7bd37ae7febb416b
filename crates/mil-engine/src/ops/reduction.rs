//! Reductions along axes.
//!
//! Semantics after the reference documentation of coremltools' `reduction` chapter: `axes` missing means
//! all, `keep_dims` is false by default.

use coreml_format::dtype::DataType;

use super::{OpSpec, since::*};
use crate::build::{Build, Param, Run, one, resolve_axes, resolve_axis};
use crate::error::OpError;
use crate::run::Frame;
use crate::value::{Array, with_f32s};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("reduce_argmax", IOS15_17, |b| arg(b, |a, b| a > b)),
    OpSpec::new("reduce_argmin", IOS15_17, |b| arg(b, |a, b| a < b)),
    OpSpec::new("reduce_l1_norm", IOS15, |b| reduce(b, |v| sum(v.iter().map(|x| x.abs())))),
    OpSpec::new("reduce_l2_norm", IOS15, |b| reduce(b, |v| sum(v.iter().map(|x| x * x)).sqrt())),
    OpSpec::new("reduce_log_sum", IOS15, |b| reduce(b, |v| sum(v.iter().copied()).ln())),
    OpSpec::new("reduce_log_sum_exp", IOS15, |b| reduce(b, log_sum_exp)),
    OpSpec::new("reduce_max", IOS15, |b| reduce(b, |v| v.iter().copied().fold(f64::NEG_INFINITY, f64::max))),
    OpSpec::new("reduce_mean", IOS15, mean),
    OpSpec::new("reduce_min", IOS15, |b| reduce(b, |v| v.iter().copied().fold(f64::INFINITY, f64::min))),
    OpSpec::new("reduce_prod", IOS15, |b| reduce(b, |v| v.iter().product())),
    OpSpec::new("reduce_sum", IOS15, |b| reduce(b, |v| sum(v.iter().copied()))),
    OpSpec::new("reduce_sum_square", IOS15, |b| reduce(b, |v| sum(v.iter().map(|x| x * x)))),
];

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

fn log_sum_exp(values: &[f64]) -> f64 {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_infinite() {
        return top;
    }
    top + values.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
}

/// The tensor with `axes` moved to the end, contiguous; the extents that stay, and the size of what goes.
fn to_end(x: &Array, axes: &[usize]) -> Result<(Array, Vec<usize>, usize), OpError> {
    let stay: Vec<usize> = (0..x.rank()).filter(|d| !axes.contains(d)).collect();
    let order: Vec<usize> = stay.iter().copied().chain(axes.iter().copied()).collect();
    let kept: Vec<usize> = stay.iter().map(|&d| x.shape()[d]).collect();
    let size = axes.iter().map(|&d| x.shape()[d]).product();
    let sorted = order.is_sorted();
    let tensor = if sorted { x.tensor().clone() } else { x.tensor().permute(order)? };
    Ok((x.with(tensor), kept, size))
}

fn result_shape(x: &Array, axes: &[usize], keep: bool) -> Vec<usize> {
    let dims = x.shape().iter().enumerate();
    if keep {
        dims.map(|(d, &n)| if axes.contains(&d) { 1 } else { n }).collect()
    } else {
        dims.filter(|(d, _)| !axes.contains(d)).map(|(_, &n)| n).collect()
    }
}

/// The axes that are reduced, in order and once each: all of them when none is named.
fn reduced(axes: Option<&Param<Vec<i64>>>, f: &Frame<'_>, rank: usize) -> Result<Vec<usize>, OpError> {
    let mut axes = match axes {
        Some(axes) => resolve_axes(&axes.get(f)?, rank)?,
        None => Vec::new(),
    };
    if axes.is_empty() {
        axes = (0..rank).collect();
    }
    axes.sort_unstable();
    axes.dedup();
    Ok(axes)
}

fn reduce(b: &Build<'_>, apply: fn(&[f64]) -> f64) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axes = b.param_opt::<Vec<i64>>("axes")?;
    let keep = b.attr_or("keep_dims", false)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axes = reduced(axes.as_ref(), f, x.rank())?;
        let shape = result_shape(&x, &axes, keep);
        let (moved, kept, size) = to_end(&x, &axes)?;
        let count: usize = kept.iter().product();
        let mut buffer = vec![0f64; size];
        let mut out = Vec::with_capacity(count);
        let mut each = |values: &mut dyn Iterator<Item = f64>| {
            for _ in 0..count {
                buffer.iter_mut().zip(&mut *values).for_each(|(b, v)| *b = v);
                out.push(apply(&buffer));
            }
        };
        if x.dtype().is_float() {
            each(&mut moved.to_f32s()?.into_iter().map(f64::from));
            return one(Array::from_f32(out.into_iter().map(|v| v as f32).collect(), &shape, x.dtype(), f.device())?);
        }
        each(&mut moved.to_i64s()?.into_iter().map(|v| v as f64));
        let dtype = if x.dtype() == DataType::Bool { DataType::I32 } else { x.dtype() };
        one(Array::from_i64(out.into_iter().map(|v| v as i64).collect(), &shape, dtype, f.device())?)
    })
}

/// `reduce_mean(x, axes?, keep_dims = false)`; where what stays lies innermost in memory, as channels after a convolution
/// do, rows are added as they lie.
fn mean(b: &Build<'_>) -> Result<Run, OpError> {
    let general = reduce(b, |v| sum(v.iter().copied()) / v.len() as f64)?;
    let x = b.slot("x")?;
    let axes = b.param_opt::<Vec<i64>>("axes")?;
    let keep = b.attr_or("keep_dims", false)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axes = reduced(axes.as_ref(), f, x.rank())?;
        let order: Vec<usize> = axes.iter().copied().chain((0..x.rank()).filter(|d| !axes.contains(d))).collect();
        let rows = axes.iter().map(|&d| x.shape()[d]).product::<usize>();
        let means = |data: &[f32]| {
            let cols = data.len() / rows;
            let mut sums = vec![0f64; cols];
            for row in data.chunks_exact(cols.max(1)) {
                sums.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
            }
            sums.into_iter().map(|s| (s / rows as f64) as f32).collect::<Vec<f32>>()
        };
        let by_rows = !axes.is_empty() && rows > 0;
        match if by_rows { with_f32s(&x.tensor().permute(order)?, means) } else { None } {
            Some(data) => one(Array::from_f32(data, &result_shape(&x, &axes, keep), x.dtype(), f.device())?),
            None => general(f),
        }
    })
}

/// `reduce_argmax(x, axis = -1, keep_dims = false, output_dtype = "int32")`: the first best index.
fn arg(b: &Build<'_>, better: fn(f32, f32) -> bool) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.param_or("axis", -1i64)?;
    let keep = b.attr_or("keep_dims", false)?;
    let dtype = b.output_dtype(0)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        let shape = result_shape(&x, &[axis], keep);
        let (moved, kept, size) = to_end(&x, &[axis])?;
        if size == 0 {
            return Err(OpError::shape("the best of no elements"));
        }
        let values = moved.to_f32s()?;
        let mut out = Vec::with_capacity(kept.iter().product());
        for row in values.chunks_exact(size) {
            let mut best = 0;
            for (i, &v) in row.iter().enumerate() {
                if better(v, row[best]) {
                    best = i;
                }
            }
            out.push(best as i64);
        }
        one(Array::from_i64(out, &shape, dtype, f.device())?)
    })
}
