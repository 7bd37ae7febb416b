//! Activations: elementwise functions of one tensor, and softmax.
//!
//! Semantics after the reference documentation of coremltools' `activation` chapter.

use candle_core::{D, Tensor};

use super::elementwise_unary::map;
use super::{OpSpec, since::*};
use crate::build::{Build, Run, one, resolve_axis};
use crate::error::OpError;
use crate::layout;
use crate::value::{Array, with_f32s};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("clamped_relu", IOS15_17, |b| {
        two(b, 1.0, 1.0, |x, a, b| if x >= 0.0 { x.min(b) } else { (a * x).min(b) })
    }),
    OpSpec::new("elu", IOS15_17, |b| two(b, 1.0, 0.0, |x, a, _| if x >= 0.0 { x } else { a * x.exp_m1() })),
    OpSpec::new("gelu", IOS15, gelu),
    OpSpec::new("leaky_relu", IOS15_17, |b| two(b, 0.01, 0.0, |x, a, _| if x >= 0.0 { x } else { a * x })),
    OpSpec::new("linear_activation", IOS15_17, |b| two(b, 1.0, 0.0, |x, a, b| a * x + b)),
    OpSpec::new("prelu", IOS15_17, prelu),
    OpSpec::new("relu", IOS15, |b| two(b, 0.0, 0.0, |x, _, _| if x < 0.0 { 0.0 } else { x })),
    OpSpec::new("relu6", IOS15, |b| two(b, 0.0, 0.0, |x, _, _| if x.is_nan() { x } else { x.clamp(0.0, 6.0) })),
    OpSpec::new("scaled_tanh", IOS15_17, |b| two(b, 1.0, 1.0, |x, a, b| a * (b * x).tanh())),
    OpSpec::new("sigmoid", IOS15, |b| two(b, 0.0, 0.0, |x, _, _| sigmoid(x))),
    OpSpec::new("sigmoid_hard", IOS15_17, |b| two(b, 0.2, 0.5, |x, a, b| (a * x + b).clamp(0.0, 1.0))),
    OpSpec::new("silu", IOS15, |b| two(b, 0.0, 0.0, |x, _, _| x * sigmoid(x))),
    OpSpec::new("softmax", IOS15, softmax),
    OpSpec::new("softplus", IOS15, |b| two(b, 0.0, 0.0, |x, _, _| softplus(x))),
    OpSpec::new("softplus_parametric", IOS15_17, softplus_parametric),
    OpSpec::new("softsign", IOS15, |b| two(b, 0.0, 0.0, |x, _, _| x / (1.0 + x.abs()))),
    OpSpec::new("thresholded_relu", IOS15_17, |b| two(b, 1.0, 0.0, |x, a, _| if x >= a { x } else { 0.0 })),
];

/// `1 / (1 + e^−x)`.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// An activation with up to two scalar parameters, `alpha` and `beta`.
fn two(b: &Build<'_>, alpha: f32, beta: f32, f: fn(f32, f32, f32) -> f32) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (alpha, beta) = (b.attr_or("alpha", alpha)?, b.attr_or("beta", beta)?);
    b.run(move |frame| one(map(&frame.array(x)?, move |v| f(v, alpha, beta))?))
}

/// `gelu(x, mode = "EXACT")`: with the error function, or the tanh or sigmoid approximation.
fn gelu(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let mode: String = b.attr_or("mode", "EXACT".to_owned())?;
    match mode.as_str() {
        "EXACT" => b.run(move |f| {
            let x = f.array(x)?;
            match layout::elementwise(x.tensor(), mil_kernels::activation::gelu_all)? {
                Some(y) => one(x.with(y)),
                None => one(map(&x, mil_kernels::activation::gelu)?),
            }
        }),
        "TANH_APPROXIMATION" => b.run(move |f| {
            one(map(&f.array(x)?, |v| {
                0.5 * v * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (v + 0.044715 * v * v * v)).tanh())
            })?)
        }),
        "SIGMOID_APPROXIMATION" => b.run(move |f| one(map(&f.array(x)?, |v| v * sigmoid(1.702 * v))?)),
        other => Err(OpError::data(format!("unknown gelu mode `{other}`"))),
    }
}

/// A vector along dimension 1 of a tensor of this rank.
fn along_channels(values: &Array, rank: usize) -> Result<Tensor, OpError> {
    let n = values.tensor().elem_count();
    let mut shape = vec![1; rank.max(1)];
    let axis = if rank >= 2 { 1 } else { 0 };
    shape[axis] = n;
    Ok(values.tensor().reshape(shape)?)
}

/// `prelu(x, alpha)`: `alpha[c]·x` below zero, c along dimension 1.
fn prelu(b: &Build<'_>) -> Result<Run, OpError> {
    let (x, alpha) = (b.slot("x")?, b.slot("alpha")?);
    b.run(move |f| {
        let x = f.array(x)?;
        let alpha = along_channels(&f.array(alpha)?, x.rank())?;
        let negative = x.tensor().minimum(&x.tensor().zeros_like()?)?;
        let y = (x.tensor().relu()? + negative.broadcast_mul(&alpha)?)?;
        one(x.with(y))
    })
}

/// `softplus_parametric(x, alpha, beta)`: `alpha[c]·ln(1 + e^(beta[c]·x))`.
fn softplus_parametric(b: &Build<'_>) -> Result<Run, OpError> {
    let (x, alpha, beta) = (b.slot("x")?, b.slot("alpha")?, b.slot("beta")?);
    b.run(move |f| {
        let x = f.array(x)?;
        let alpha = along_channels(&f.array(alpha)?, x.rank())?;
        let beta = along_channels(&f.array(beta)?, x.rank())?;
        let inner = map(&x.with(x.tensor().broadcast_mul(&beta)?), softplus)?;
        one(x.with(inner.tensor().broadcast_mul(&alpha)?))
    })
}

/// `softmax(x, axis = -1)`: exp(x − max) / Σ exp(x − max) along `axis`.
fn softmax(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.param_or("axis", -1i64)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        let t = x.floats()?;
        if t.elem_count() == 0 {
            return one(x);
        }
        let y = if axis + 1 == x.rank() {
            softmax_last(t)?
        } else {
            softmax_last(&layout::contiguous(&t.transpose(axis, D::Minus1)?)?)?.transpose(axis, D::Minus1)?
        };
        one(x.with(y))
    })
}

/// Softmax along the last dimension.
pub(super) fn softmax_last(t: &Tensor) -> candle_core::Result<Tensor> {
    let rows = layout::contiguous(t).map_err(candle_core::Error::wrap)?;
    let size = t.dims().last().copied().unwrap_or(1);
    let softmax = |data: &[f32]| {
        let mut out = data.to_vec();
        mil_kernels::softmax::softmax(&mut out, size);
        out
    };
    if let Some(out) = with_f32s(&rows, softmax) {
        return Tensor::from_vec(out, t.dims(), t.device());
    }
    let shifted = t.broadcast_sub(&t.max_keepdim(D::Minus1)?)?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}
