//! Activations: elementwise functions of one tensor, and softmax.
//!
//! Semantics follow the reference documentation of coremltools' `activation` chapter.

use candle_core::{D, Tensor};
use coreml_kernels::elementwise::{
    Elu, Gelu, GeluTanh, HardSigmoid, ScaledTanh, Sigmoid, Silu, Softplus, Swish, Unary,
};
use coreml_kernels::softmax::softmax as kernel;

use super::elementwise_unary::{float, map};
use super::normalization::with_parameter;
use crate::array::Array;
use crate::batch;
use crate::budget::{self, Counted};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::op::{OpSpec, VECTORIZED, since::*};
use crate::planned::Run;
use crate::shape::resolve_axis;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::vectorized("clamped_relu", IOS15_17, |b| {
        // NaN stays NaN.
        with_alpha_beta(b, 1.0, 1.0, |a, b| {
            move |x: f32| {
                let y = if x >= 0.0 { x } else { a * x };
                if y > b { b } else { y }
            }
        })
    }),
    OpSpec::vectorized("elu", IOS15_17, |b| with_alpha(b, 1.0, |alpha| Elu { alpha })),
    OpSpec::vectorized("gelu", IOS15, gelu)
        .fuse(|graph, op| (graph.word_or(op, "mode", "EXACT")? == "EXACT").then_some(("gelu", Vec::new()))),
    OpSpec::vectorized("leaky_relu", IOS15_17, |b| with_alpha(b, 0.01, |a| move |x| if x >= 0.0 { x } else { a * x })),
    OpSpec::vectorized("linear_activation", IOS15_17, |b| with_alpha_beta(b, 1.0, 0.0, |a, b| move |x| a * x + b)),
    OpSpec::new("prelu", IOS15_17, prelu).kernel(VECTORIZED),
    OpSpec::vectorized("relu", IOS15, |b| float(b, |x| if x < 0.0 { 0.0 } else { x }))
        .fuse(|_, _| Some(("clip", vec![("low", 0.0)]))),
    OpSpec::vectorized("relu6", IOS15, |b| float(b, |x: f32| x.clamp(0.0, 6.0)))
        .fuse(|_, _| Some(("clip", vec![("low", 0.0), ("high", 6.0)]))),
    OpSpec::vectorized("scaled_tanh", IOS15_17, |b| {
        with_alpha_beta(b, 1.0, 1.0, |alpha, beta| ScaledTanh { alpha, beta })
    }),
    OpSpec::vectorized("sigmoid", IOS15, |b| float(b, Sigmoid)).fuse(|_, _| Some(("sigmoid", Vec::new()))),
    OpSpec::vectorized("sigmoid_hard", IOS15_17, |b| {
        with_alpha_beta(b, 0.2, 0.5, |slope, offset| HardSigmoid { slope, offset })
    })
    .fuse(|graph, op| {
        let (slope, offset) = (graph.number_or(op, "alpha", 0.2)?, graph.number_or(op, "beta", 0.5)?);
        Some(("hard_sigmoid", vec![("slope", slope), ("offset", offset)]))
    }),
    OpSpec::vectorized("silu", IOS15, |b| float(b, Silu)).fuse(|_, _| Some(("silu", Vec::new()))),
    OpSpec::new("softmax", IOS15, softmax)
        .batch(|dim, op| batch::along_or_last(dim, op, "axis"))
        .kernel("reduction, vectorised"),
    OpSpec::vectorized("softplus", IOS15, |b| float(b, Softplus)),
    OpSpec::new("softplus_parametric", IOS15_17, softplus_parametric).kernel(VECTORIZED),
    OpSpec::vectorized("softsign", IOS15, |b| float(b, |x: f32| x / (1.0 + x.abs()))),
    OpSpec::vectorized("thresholded_relu", IOS15_17, |b| with_alpha(b, 1.0, |a| move |x| if x < a { 0.0 } else { x })),
];

/// An activation with the scalar parameter `alpha`.
fn with_alpha<F: Unary + Copy + Send + 'static>(
    b: &OpBuilder<'_>,
    alpha: f32,
    with: fn(f32) -> F,
) -> Result<Run, OpError> {
    float(b, with(b.attr_or("alpha", alpha)?))
}

/// An activation with the scalar parameters `alpha` and `beta`.
fn with_alpha_beta<F: Unary + Copy + Send + 'static>(
    b: &OpBuilder<'_>,
    alpha: f32,
    beta: f32,
    with: fn(f32, f32) -> F,
) -> Result<Run, OpError> {
    float(b, with(b.attr_or("alpha", alpha)?, b.attr_or("beta", beta)?))
}

/// `gelu(x, mode = "EXACT")`: with the error function, or the tanh or sigmoid approximation.
fn gelu(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    type Made = fn(&OpBuilder<'_>) -> Result<Run, OpError>;
    let modes: [(&str, Made); 3] = [
        ("EXACT", |b| float(b, Gelu)),
        ("TANH_APPROXIMATION", |b| float(b, GeluTanh)),
        ("SIGMOID_APPROXIMATION", |b| float(b, Swish { factor: 1.702 })),
    ];
    b.choice("mode", &modes)?(b)
}

/// Reshapes a vector to broadcast along dimension 1 of a tensor of this rank.
fn along_channels(values: &Array, rank: usize) -> Result<Array, OpError> {
    let n = values.tensor().elem_count();
    let mut shape = vec![1; rank.max(1)];
    let axis = if rank >= 2 { 1 } else { 0 };
    shape[axis] = n;
    Ok(values.with(values.tensor().reshape(shape)?))
}

/// Applies `f` to a tensor and a vector along its dimension 1.
fn with_channels(x: &Array, values: &Array, f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Result<Array, OpError> {
    let values = along_channels(values, x.rank())?;
    Ok(x.with(with_parameter(x.floats()?, values.floats()?, f)?))
}

/// `prelu(x, alpha)`: `alpha[c]·x` below zero, c along dimension 1.
fn prelu(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, alpha) = (b.slot("x")?, b.slot("alpha")?);
    b.run(move |f| one(with_channels(&f.array(x)?, &f.array(alpha)?, |x, a| if x < 0.0 { a * x } else { x })?))
}

/// `softplus_parametric(x, alpha, beta)`: `alpha[c]·ln(1 + e^(beta[c]·x))`.
fn softplus_parametric(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, alpha, beta) = (b.slot("x")?, b.slot("alpha")?, b.slot("beta")?);
    b.run(move |f| {
        let inner = with_channels(&f.array(x)?, &f.array(beta)?, |x, b| x * b)?;
        one(with_channels(&map(&inner, Softplus)?, &f.array(alpha)?, |y, a| y * a)?)
    })
}

/// `softmax(x, axis = -1)`: exp(x − max) / Σ exp(x − max) along `axis`.
fn softmax(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.param_or("axis", -1i64)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        let t = x.floats()?;
        if t.elem_count() == 0 {
            return one(x);
        }
        budget::claim(x.bytes())?;
        if let Some((data, order)) = layout::along(t, &[axis], kernel)? {
            return one(x.with(layout::from_memory(data, t.dims(), &order, t)?));
        }
        let y = softmax_last(&t.transpose(axis, D::Minus1)?.counted_contiguous()?)?.transpose(axis, D::Minus1)?;
        one(x.with(y))
    })
}

/// Softmax along the last dimension.
pub(crate) fn softmax_last(t: &Tensor) -> Result<Tensor, OpError> {
    let rows = layout::contiguous(t)?;
    let size = t.dims().last().copied().unwrap_or(1);
    let softmax = |data: &[f32]| kernel(data, [data.len() / size.max(1), size, 1]);
    budget::claim(budget::bytes_of(t).saturating_mul(if t.device().is_cpu() { 1 } else { 4 }))?;
    if let Some(out) = with_f32s(&rows, softmax) {
        return Ok(Tensor::from_vec(out, t.dims(), t.device())?);
    }
    let shifted = t.broadcast_sub(&t.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?)
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn gelu_has_three_modes() {
        let gelu = |mode: &str| {
            of(&format!("tensor<fp32, [3]> y = gelu(x = x, mode = string(\"{mode}\"));"), &[3], &[-1.0, 0.0, 1.0])
        };
        near(&gelu("EXACT"), &[-0.158_655_26, 0.0, 0.841_344_7]);
        near(&gelu("TANH_APPROXIMATION"), &[-0.158_808, 0.0, 0.841_192]);
        near(&gelu("SIGMOID_APPROXIMATION"), &[-0.154_204_23, 0.0, 0.845_795_8]);
        refused("tensor<fp32, [1]> y = gelu(x = x, mode = string(\"FAST\"));", &[1], &[1.0], "FAST");
    }

    #[test]
    fn relu_and_clamped_relu_keep_nan() {
        let y = of("tensor<fp32, [3]> y = relu(x = x);", &[3], &[f32::NAN, -1.0, f32::INFINITY]);
        near(&y, &[f32::NAN, 0.0, f32::INFINITY]);
        let clamped = "tensor<fp32, [4]> y = clamped_relu(x = x, alpha = fp32(0.5), beta = fp32(2));";
        near(&of(clamped, &[4], &[f32::NAN, -4.0, 1.0, 3.0]), &[f32::NAN, -2.0, 1.0, 2.0]);
    }

    #[test]
    fn softmax_takes_infinities_and_any_axis() {
        let softmax = |axis: i32, x: &[f32]| {
            of(&format!("tensor<fp32, [2, 2]> y = softmax(x = x, axis = int32({axis}));"), &[2, 2], x)
        };
        near(&softmax(-1, &[f32::NEG_INFINITY, 0.0, 1e4, 1e4]), &[0.0, 1.0, 0.5, 0.5]);
        near(&softmax(0, &[0.0, 7.0, 0.0, f32::NEG_INFINITY]), &[0.5, 1.0, 0.5, 0.0]);
        refused("tensor<fp32, [2]> y = softmax(x = x, axis = int32(1));", &[2], &[0.0; 2], "axis 1");
    }
}
