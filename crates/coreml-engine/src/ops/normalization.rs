//! Normalization.
//!
//! Semantics follow the reference documentation of coremltools' `normalization` chapter.

use std::borrow::Cow;

use candle_core::Tensor;
use coreml_kernels::buffer_pool::{recycle, zeros};
use coreml_kernels::norm::affine;

use crate::array::Array;
use crate::batch;
use crate::budget::{Counted, claim_of, filled, products};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::layout;
use crate::op::{OpSpec, VECTORIZED, since::*};
use crate::planned::Run;
use crate::shape::resolve_axes;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("batch_norm", IOS15_17, batch_norm).kernel(VECTORIZED),
    OpSpec::new("instance_norm", IOS15_17, instance_norm).kernel("row norm, vectorised"),
    OpSpec::new("l2_norm", IOS15_17, l2_norm),
    OpSpec::new("layer_norm", IOS15_17, layer_norm)
        .batch(|dim, op| batch::along(dim, op, "axes"))
        .kernel("row norm, vectorised"),
    OpSpec::new("local_response_norm", IOS15_17, local_response_norm),
];

/// Reshapes a channel vector to broadcast along dimension 1.
fn channels(f: &Frame<'_>, slot: Slot, rank: usize) -> Result<Tensor, OpError> {
    let values = f.array(slot)?;
    let mut shape = vec![1; rank];
    if rank < 2 {
        return Err(OpError::shape("a normalization by channels needs at least two dimensions"));
    }
    shape[1] = values.tensor().elem_count();
    // Temporaries computed from it: a few vectors.
    claim_of::<f32>(shape[1].saturating_mul(4))?;
    Ok(values.floats()?.reshape(shape)?)
}

/// `batch_norm(x, mean, variance, gamma?, beta?, epsilon = 1e-5)`.
fn batch_norm(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, mean, variance) = (b.slot("x")?, b.slot("mean")?, b.slot("variance")?);
    let (gamma, beta) = (b.slot_opt("gamma")?, b.slot_opt("beta")?);
    let epsilon = f64::from(b.attr_or("epsilon", 1e-5f32)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let rank = x.rank();
        let mut scale = (channels(f, variance, rank)? + epsilon)?.sqrt()?.recip()?;
        if let Some(gamma) = gamma {
            scale = (scale * channels(f, gamma, rank)?)?;
        }
        let mut shift = (channels(f, mean, rank)? * &scale)?.neg()?;
        if let Some(beta) = beta {
            shift = (shift + channels(f, beta, rank)?)?;
        }
        let channels = scale.elem_count();
        if x.shape()[1] == channels && shift.elem_count() == channels {
            let (scales, shifts) = (layout::to_f32s(&scale)?, layout::to_f32s(&shift)?);
            claim_of::<f32>(x.tensor().elem_count())?;
            let moved = layout::along(x.floats()?, &[1], |x, extents| affine(x, extents, &scales, &shifts))?;
            if let Some((data, order)) = moved {
                return one(x.with(layout::from_memory(data, x.shape(), &order, x.tensor())?));
            }
        }
        let scaled = x.tensor().counted_broadcast(&scale, Tensor::broadcast_mul)?;
        one(x.with(scaled.counted_broadcast(&shift, Tensor::broadcast_add)?))
    })
}

/// `instance_norm(x, gamma?, beta?, epsilon = 1e-5)`: over all dimensions after the channel dimension.
fn instance_norm(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (gamma, beta) = (b.slot_opt("gamma")?, b.slot_opt("beta")?);
    let epsilon = b.attr_or("epsilon", 1e-5f32)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let rank = x.rank();
        if rank < 3 {
            return Err(OpError::shape(format!("instance_norm of a tensor of rank {rank}")));
        }
        let size: usize = x.shape()[2..].iter().product();
        let mut data = x.with_rows(|data| normalize_rows(data, size, epsilon, None, None))??;
        if gamma.is_some() || beta.is_some() {
            let extents = [x.shape()[0], x.shape()[1], size];
            let (scales, shifts) = (of_channels(f, gamma, extents[1], 1.0)?, of_channels(f, beta, extents[1], 0.0)?);
            claim_of::<f32>(data.len())?;
            let moved = affine(&data, extents, &scales, &shifts);
            recycle(std::mem::replace(&mut data, moved));
        }
        one(x.with(Tensor::from_vec(data, x.shape(), f.device())?))
    })
}

/// A per-channel parameter for `count` channels.
fn of_channels(f: &Frame<'_>, slot: Option<Slot>, count: usize, default: f32) -> Result<Vec<f32>, OpError> {
    let Some(slot) = slot else { return filled(default, count) };
    let values = f.array(slot)?.to_f32s()?;
    match values.len() {
        n if n == count => Ok(values),
        1 => filled(values[0], count),
        n => Err(OpError::shape(format!("a parameter of {n} elements for {count} channels"))),
    }
}

/// (row − mean) / √(variance + epsilon) · gamma + beta for each row.
fn normalize_rows(
    data: &[f32],
    size: usize,
    epsilon: f32,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
) -> Result<Vec<f32>, OpError> {
    claim_of::<f32>(data.len())?;
    let mut out = zeros(data.len());
    coreml_kernels::norm::layer_norm(data, size, epsilon, gamma, beta, &mut out);
    Ok(out)
}

/// `l2_norm(x, epsilon = 1e-6)`: x / √(Σ x² + epsilon) over the last three dimensions.
fn l2_norm(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let epsilon = f64::from(b.attr_or("epsilon", 1e-6f32)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let size: usize = x.shape()[x.rank().saturating_sub(3)..].iter().product();
        let mut data = x.to_f32s()?;
        for row in data.chunks_exact_mut(size.max(1)) {
            let norm = (row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() + epsilon).sqrt();
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
        one(Array::from_f32(data, x.shape(), x.dtype(), f.device())?)
    })
}

/// Applies `f` to each element and its broadcast parameter; `y` is the larger tensor.
pub(super) fn with_parameter(
    y: &Tensor,
    parameter: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Copy + Sync,
) -> Result<Tensor, OpError> {
    let both = crate::ops::elementwise_binary::broadcast_shape(y.dims(), parameter.dims())?;
    if both != y.dims() {
        return Err(OpError::shape(format!("a parameter {:?} for {:?}", parameter.dims(), y.dims())));
    }
    // On other devices, the elements are copied to the CPU and back.
    match layout::binary(y, parameter, &both, f)? {
        Some(result) => Ok(result),
        None => {
            let cpu = candle_core::Device::Cpu;
            let result = layout::binary(&y.to_device(&cpu)?, &parameter.to_device(&cpu)?, &both, f)?;
            result
                .ok_or_else(|| OpError::data("a parameter that is not f32"))?
                .to_device(y.device())
                .map_err(Into::into)
        }
    }
}

/// A parameter of `layer_norm`, with its values if constant.
struct Parameter {
    slot: Slot,
    values: Option<Vec<f32>>,
}

impl Parameter {
    fn new(b: &OpBuilder<'_>, name: &str) -> Result<Option<Self>, OpError> {
        let Some(slot) = b.slot_opt(name)? else { return Ok(None) };
        let constant = b.constant(slot).map(|v| v.array(name, b.device())?.to_f32s());
        Ok(Some(Self { slot, values: constant.transpose()? }))
    }
}

/// Values of a parameter for rows of this size.
fn fitting<'p>(
    f: &Frame<'_>,
    parameter: &'p Option<Parameter>,
    size: usize,
) -> Result<Option<Cow<'p, [f32]>>, OpError> {
    let Some(Parameter { slot, values }) = parameter else { return Ok(None) };
    let values = match values {
        Some(values) => Cow::Borrowed(values.as_slice()),
        None => Cow::Owned(f.array(*slot)?.to_f32s()?),
    };
    match values.len() {
        n if n == size => Ok(Some(values)),
        1 => Ok(Some(Cow::Owned(filled(values[0], size)?))),
        n => Err(OpError::shape(format!("a parameter of {n} elements for a norm of {size}"))),
    }
}

/// `layer_norm(x, axes?, gamma?, beta?, epsilon = 1e-5)`: over `axes` (all if omitted); gamma and beta have the extents
/// of `axes`.
fn layer_norm(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axes = b.attr_opt::<Vec<i64>>("axes")?;
    let (gamma, beta) = (Parameter::new(b, "gamma")?, Parameter::new(b, "beta")?);
    let epsilon = b.attr_or("epsilon", 1e-5f32)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let rank = x.rank();
        let mut axes = match &axes {
            Some(a) => resolve_axes(a, rank)?,
            None => (0..rank).collect(),
        };
        axes.sort_unstable();
        let last = axes.iter().rev().enumerate().all(|(i, &a)| a + i + 1 == rank);
        let size: usize = axes.iter().map(|&a| x.shape()[a]).product();
        if size == 0 || x.tensor().elem_count() == 0 {
            return one(x);
        }
        if last {
            let (gamma, beta) = (fitting(f, &gamma, size)?, fitting(f, &beta, size)?);
            let norm = |s: &[f32]| normalize_rows(s, size, epsilon, gamma.as_deref(), beta.as_deref());
            let data = x.with_rows(norm)??;
            return one(x.with(Tensor::from_vec(data, x.shape(), f.device())?));
        }
        let y = {
            let order: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).chain(axes.iter().copied()).collect();
            let moved = x.with(x.tensor().permute(order.as_slice())?);
            let data = normalize_rows(&moved.to_f32s()?, size, epsilon, None, None)?;
            let mut back = vec![0; rank];
            order.iter().enumerate().for_each(|(i, &d)| back[d] = i);
            Tensor::from_vec(data, moved.shape(), f.device())?.permute(back)?
        };
        let mut extents = vec![1; rank];
        axes.iter().for_each(|&a| extents[a] = x.shape()[a]);
        let mut y = y;
        if let Some(&Parameter { slot, .. }) = gamma.as_ref() {
            y = with_parameter(&y, &f.array(slot)?.floats()?.reshape(extents.as_slice())?, |y, g| y * g)?;
        }
        if let Some(&Parameter { slot, .. }) = beta.as_ref() {
            y = with_parameter(&y, &f.array(slot)?.floats()?.reshape(extents.as_slice())?, |y, b| y + b)?;
        }
        one(x.with(y))
    })
}

/// `local_response_norm(x, size, alpha = 1e-4, beta = 0.75, k = 1)`: over `size` neighbouring channels.
fn local_response_norm(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let size = usize::try_from(b.attr::<i64>("size")?).map_err(|_| OpError::shape("a negative size"))?;
    let (alpha, beta) = (f64::from(b.attr_or("alpha", 1e-4f32)?), f64::from(b.attr_or("beta", 0.75f32)?));
    let k = f64::from(b.attr_or("k", 1.0f32)?);
    b.run(move |f| {
        let x = f.array(x)?;
        if x.rank() < 2 || size == 0 {
            return Err(OpError::shape("local_response_norm needs channels and a size"));
        }
        let count = x.shape()[1];
        let inner = x.tensor().dims()[2..].iter().product::<usize>();
        let data = x.to_f32s()?;
        products(&[data.len(), size.min(count)])?;
        claim_of::<f32>(data.len())?;
        let mut out = zeros(data.len());
        let (before, after) = (size / 2, (size - 1) / 2);
        for (row, out) in data.chunks((count * inner).max(1)).zip(out.chunks_mut((count * inner).max(1))) {
            for c in 0..count {
                let window = c.saturating_sub(before)..(c + after + 1).min(count);
                for i in 0..inner {
                    let sum: f64 = window.clone().map(|w| f64::from(row[w * inner + i]).powi(2)).sum();
                    out[c * inner + i] =
                        (f64::from(row[c * inner + i]) / (k + alpha / size as f64 * sum).powf(beta)) as f32;
                }
            }
        }
        one(Array::from_f32(out, x.shape(), x.dtype(), f.device())?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn layer_norm_of_equal_elements_is_its_offset() {
        let body = "tensor<fp32, [2, 2]> y = layer_norm(x = x, axes = tensor<int32, [1]>([-1]), gamma = tensor<fp32, [2]>([3, 3]), \
            beta = tensor<fp32, [2]>([5, 6]), epsilon = fp32(0.000001));";
        let y = of(body, &[2, 2], &[7.0, 7.0, -1.0, 1.0]);
        near(&y[..2], &[5.0, 6.0]);
        near(&y[2..], &[5.0 - 2.999_998_5, 6.0 + 2.999_998_5]);
    }

    #[test]
    fn batch_norm_works_by_channel() {
        let body = "tensor<fp32, [1, 2, 1]> y = batch_norm(x = x, mean = tensor<fp32, [2]>([1, 2]), variance = tensor<fp32, [2]>([4, 0]), \
            gamma = tensor<fp32, [2]>([2, 1]), beta = tensor<fp32, [2]>([0.5, 0]), epsilon = fp32(0.25));";
        near(&of(body, &[1, 2, 1], &[1.0, 3.0]), &[0.5, 2.0]);
    }
}
