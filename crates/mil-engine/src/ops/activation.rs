//! Activations: elementwise functions of one tensor, and softmax.
//!
//! Semantics after the reference documentation of coremltools' `activation` chapter.

use candle_core::D;

use super::{OpSpec, since::*};
use crate::build::{Build, Run, one, resolve_axis};
use crate::error::OpError;

pub(super) const OPS: &[OpSpec] = &[OpSpec::new("softmax", IOS15, softmax)];

/// `softmax(x, axis = -1)`: exp(x − max) / Σ exp(x − max) along `axis`.
fn softmax(b: &Build<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.param_or("axis", -1i64)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(*axis.get(f)?, x.rank())?;
        let t = x.tensor();
        let last = axis + 1 == x.rank();
        let y = if last {
            candle_nn_softmax(t)?
        } else {
            candle_nn_softmax(&t.transpose(axis, D::Minus1)?)?.transpose(axis, D::Minus1)?
        };
        one(x.with(y))
    })
}

fn candle_nn_softmax(t: &candle_core::Tensor) -> candle_core::Result<candle_core::Tensor> {
    let shifted = t.broadcast_sub(&t.max_keepdim(D::Minus1)?)?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}
