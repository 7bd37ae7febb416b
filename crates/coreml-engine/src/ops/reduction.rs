//! Reductions along axes.
//!
//! Semantics follow the reference documentation of coremltools' `reduction` chapter: omitted `axes` means all,
//! `keep_dims` is false by default.

use candle_core::Tensor;
use coreml_format::dtype::DataType;
use coreml_format::program::Opset;
use coreml_kernels::argmax::argmax;
use coreml_kernels::reduce as kernel;

use crate::array::Array;
use crate::budget;
use crate::build::{OpBuilder, Param, one};
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::{resolve_axes, resolve_axis};

pub(super) const OPS: &[OpSpec] = &[
    // The first NaN is both the maximum and the minimum.
    OpSpec::new("reduce_argmax", IOS15_17, |b| arg(b, false)).kernel("reduction, vectorised"),
    OpSpec::new("reduce_argmin", IOS15_17, |b| arg(b, true)).kernel("reduction, vectorised"),
    OpSpec::new("reduce_l1_norm", IOS15, |b| sums(b, f64::abs, |s, _| s)).kernel("reduction, vectorised"),
    OpSpec::new("reduce_l2_norm", IOS15, |b| sums(b, |x| x * x, |s, _| s.sqrt())).kernel("reduction, vectorised"),
    OpSpec::new("reduce_log_sum", IOS15, |b| sums(b, |x| x, |s, _| s.ln())).kernel("reduction, vectorised"),
    OpSpec::new("reduce_log_sum_exp", IOS15, log_sum_exp).kernel("reduction, vectorised"),
    OpSpec::new("reduce_max", IOS15, |b| {
        let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
        reduce(b, kernel::largest, move |v| v.iter().copied().fold(f64::NEG_INFINITY, larger))
    })
    .kernel("reduction, vectorised"),
    OpSpec::new("reduce_mean", IOS15, |b| sums(b, |x| x, |s, n| s / n as f64)).kernel("reduction, vectorised"),
    OpSpec::new("reduce_min", IOS15, |b| {
        let smaller = |a: f64, b: f64| if b < a || b.is_nan() { b } else { a };
        reduce(b, kernel::smallest, move |v| v.iter().copied().fold(f64::INFINITY, smaller))
    })
    .kernel("reduction, vectorised"),
    OpSpec::new("reduce_prod", IOS15, |b| reduce(b, kernel::product, |v| v.iter().product()))
        .kernel("reduction, vectorised"),
    OpSpec::new("reduce_sum", IOS15, |b| sums(b, |x| x, |s, _| s)).kernel("reduction, vectorised"),
    OpSpec::new("reduce_sum_square", IOS15, |b| sums(b, |x| x * x, |s, _| s)).kernel("reduction, vectorised"),
];

fn log_sum_exp(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let reduction = Reduction::new(b)?;
    b.run(move |f| {
        let powers = f.array(reduction.x)?.bytes();
        let by_kernel = || {
            let _powers = budget::lent(powers)?;
            reduction.by_kernel(f, kernel::log_sum_exp)
        };
        match by_kernel()? {
            Some(y) => one(y),
            None => one(reduction.by_rows(f, exact_log_sum_exp)?),
        }
    })
}

fn exact_log_sum_exp(values: &[f64]) -> f64 {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_infinite() {
        return top;
    }
    top + values.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
}

/// Moves `axes` to the end, contiguous; returns the remaining extents and the reduced size.
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

/// Index element type selected by a parameter of opset iOS17.
pub(super) fn index_dtype(b: &OpBuilder<'_>, name: &str) -> Result<DataType, OpError> {
    const TYPES: [DataType; 5] = [DataType::I32, DataType::I16, DataType::U16, DataType::I8, DataType::U8];
    if b.since(Opset::Ios17) { b.choice(name, &TYPES.map(|d| (d.name(), d))) } else { Ok(DataType::I32) }
}

/// The reduced axes, sorted and unique; all if none is given.
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

/// Minimum number of elements of a partial sum.
const PART: usize = 1 << 8;

/// Common parameters of reductions: `x`, `axes?` and `keep_dims = false`.
struct Reduction {
    x: Slot,
    axes: Option<Param<Vec<i64>>>,
    keep: bool,
}

impl Reduction {
    fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        Ok(Self { x: b.slot("x")?, axes: b.param_opt("axes")?, keep: b.attr_or("keep_dims", false)? })
    }

    /// Applies `apply` to the elements of each result in f64; integers are truncated.
    fn by_rows(&self, f: &Frame<'_>, apply: impl Fn(&[f64]) -> f64) -> Result<Array, OpError> {
        let x = f.array(self.x)?;
        let axes = reduced(self.axes.as_ref(), f, x.rank())?;
        let shape = result_shape(&x, &axes, self.keep);
        let (moved, kept, size) = to_end(&x, &axes)?;
        let count: usize = kept.iter().product();
        let mut buffer = budget::filled(0f64, size)?;
        let mut out = budget::room(count)?;
        // The results in their own type.
        budget::claim_of::<i64>(count)?;
        let mut each = |values: &mut dyn Iterator<Item = f64>| {
            for _ in 0..count {
                buffer.iter_mut().zip(&mut *values).for_each(|(b, v)| *b = v);
                out.push(apply(&buffer));
            }
        };
        if x.dtype().is_float() {
            each(&mut moved.to_f32s()?.into_iter().map(f64::from));
            return Array::from_f32(out.into_iter().map(|v| v as f32).collect(), &shape, x.dtype(), f.device());
        }
        each(&mut moved.to_i64s()?.into_iter().map(|v| v as f64));
        let dtype = if x.dtype() == DataType::Bool { DataType::I32 } else { x.dtype() };
        Array::from_i64(out.into_iter().map(|v| v as i64).collect(), &shape, dtype, f.device())
    }

    /// Reduces CPU floats with a kernel along the middle of three extents, in their memory order.
    fn by_kernel(
        &self,
        f: &Frame<'_>,
        kernel: impl Fn(&[f32], [usize; 3]) -> Vec<f32>,
    ) -> Result<Option<Array>, OpError> {
        let x = f.array(self.x)?;
        if !x.dtype().is_float() {
            return Ok(None);
        }
        let axes = reduced(self.axes.as_ref(), f, x.rank())?;
        // f64 partial sums of the tasks, and the results.
        let left: usize = result_shape(&x, &axes, true).iter().product();
        budget::claim_of::<f32>(left)?;
        let parts = left.saturating_add(x.tensor().elem_count().div_ceil(PART)).saturating_mul(2);
        let _sums = budget::lent(parts.saturating_mul(size_of::<f64>()))?;
        let Some((data, order)) = layout::along(x.tensor(), &axes, kernel)? else { return Ok(None) };
        let mut y = layout::from_memory(data, &result_shape(&x, &axes, true), &order, x.tensor())?;
        if !self.keep {
            for &axis in axes.iter().rev() {
                y = y.squeeze(axis)?;
            }
        }
        Ok(Some(x.with(y)))
    }
}

/// A reduction with a kernel for CPU floats, otherwise by its definition.
fn reduce(
    b: &OpBuilder<'_>,
    kernel: impl Fn(&[f32], [usize; 3]) -> Vec<f32> + Copy + Send + Sync + 'static,
    apply: impl Fn(&[f64]) -> f64 + Copy + Send + Sync + 'static,
) -> Result<Run, OpError> {
    let reduction = Reduction::new(b)?;
    b.run(move |f| match reduction.by_kernel(f, kernel)? {
        Some(y) => one(y),
        None => one(reduction.by_rows(f, apply)?),
    })
}

/// `end(Σ of(x), count)`.
fn sums(
    b: &OpBuilder<'_>,
    of: impl Fn(f64) -> f64 + Copy + Send + Sync + 'static,
    end: impl Fn(f64, usize) -> f64 + Copy + Send + Sync + 'static,
) -> Result<Run, OpError> {
    reduce(b, move |x, extents| kernel::sum(x, extents, of, end), move |v| end(v.iter().map(|&x| of(x)).sum(), v.len()))
}

/// `reduce_argmax(x, axis = -1, keep_dims = false, output_dtype = "int32" (iOS17))`: the first best index. The first NaN is
/// both the maximum and the minimum.
fn arg(b: &OpBuilder<'_>, smallest: bool) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.param_or("axis", -1i64)?;
    let keep = b.attr_or("keep_dims", false)?;
    let dtype = index_dtype(b, "output_dtype")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        if x.shape()[axis] == 0 {
            return Err(OpError::shape("the best of no elements"));
        }
        if u32::try_from(x.shape()[axis]).is_err() {
            return Err(OpError::shape(format!("the best of {} elements", x.shape()[axis])));
        }
        let shape = result_shape(&x, &[axis], true);
        budget::claim_of::<i64>(shape.iter().product())?;
        let mut best = if x.dtype().is_float() {
            let kernel = |x: &[f32], extents| argmax(x, extents, smallest);
            match layout::along(x.tensor(), &[axis], kernel)? {
                Some((data, order)) => layout::from_memory(data, &shape, &order, x.tensor())?,
                None => {
                    let (moved, kept, size) = to_end(&x, &[axis])?;
                    let data = kernel(&moved.to_f32s()?, [kept.iter().product(), size, 1]);
                    Tensor::from_vec(data, shape, f.device())?
                }
            }
        } else {
            let (moved, _, size) = to_end(&x, &[axis])?;
            let first = |row: &[i64]| {
                let best = if smallest { row.iter().min() } else { row.iter().max() };
                best.and_then(|best| row.iter().position(|v| v == best)).unwrap_or(0) as i64
            };
            let data = moved.with_i64s(|all| all.chunks_exact(size).map(first).collect::<Vec<_>>())?;
            Tensor::from_vec(data, shape, f.device())?
        };
        if !keep {
            best = best.squeeze(axis)?;
        }
        one(Array::new(best, dtype)?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn reduce_log_sum_exp_does_not_overflow() {
        let body =
            "tensor<fp32, [1]> y = reduce_log_sum_exp(x = x, axes = tensor<int32, [1]>([0]), keep_dims = bool(true));";
        near(&of(body, &[2], &[1000.0, 1000.0]), &[1000.0 + std::f32::consts::LN_2]);
    }

    #[test]
    fn reduce_sum_takes_all_axes_or_negative_ones() {
        let x = [1.0, 2.0, 3.0, 4.0];
        near(&of("tensor<fp32, [1, 1]> y = reduce_sum(x = x, keep_dims = bool(true));", &[2, 2], &x), &[10.0]);
        let last = "tensor<fp32, [2]> y = reduce_sum(x = x, axes = tensor<int32, [1]>([-1]), keep_dims = bool(false));";
        near(&of(last, &[2, 2], &x), &[3.0, 7.0]);
        refused(&last.replace("-1", "2"), &[2, 2], &x, "axis 2");
    }

    #[test]
    fn reduce_argmax_takes_the_first_of_equals() {
        let body = "tensor<int32, [1]> y = reduce_argmax(x = x, axis = int32(0), keep_dims = bool(true));";
        near(&of(body, &[4], &[1.0, 9.0, 9.0, 0.0]), &[1.0]);
    }
}
