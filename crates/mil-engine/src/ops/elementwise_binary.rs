//! Elementwise functions of two tensors with broadcasting.
//!
//! Semantics after the reference documentation of coremltools' `elementwise_binary` chapter.

use candle_core::Tensor;

use super::{OpSpec, since::*};
use crate::build::{Build, Run, one};
use crate::error::OpError;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("add", IOS15, |b| binary(b, Tensor::broadcast_add)),
    OpSpec::new("mul", IOS15, |b| binary(b, Tensor::broadcast_mul)),
    OpSpec::new("sub", IOS15, |b| binary(b, Tensor::broadcast_sub)),
];

fn binary(b: &Build<'_>, apply: fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>) -> Result<Run, OpError> {
    let (x, y) = (b.slot("x")?, b.slot("y")?);
    b.run(move |f| {
        let (x, y) = (f.array(x)?, f.array(y)?);
        one(x.with(apply(x.tensor(), y.tensor())?))
    })
}
