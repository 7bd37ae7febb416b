//! `engine.rotary` and `engine.silu_mul`: elementwise idioms of language models in one pass over their operands.

use candle_core::Tensor;
use mil_kernels::elementwise::SiluTimes;
use mil_kernels::fresh::zeros;

use crate::budget;
use crate::build::{Build, Run, one};
use crate::error::OpError;
use crate::layout;
use crate::value::with_f32s;

/// `engine.rotary(x [… , T, D], cos [1…, T, D], sin)`: `x · cos + concat(−x[D/2 ..], x[.. D/2]) · sin`.
pub(super) fn rotary(b: &Build<'_>) -> Result<Run, OpError> {
    let (x, cos, sin) = (b.slot("x")?, b.slot("cos")?, b.slot("sin")?);
    b.run(move |f| {
        let (x, cos, sin) = (f.array(x)?, f.array(cos)?, f.array(sin)?);
        let shape = x.shape().to_vec();
        let size = shape.last().copied().unwrap_or(0);
        let fits = |t: &Tensor| {
            let rows = t.elem_count() / size.max(1);
            let tail = shape.len() >= 2 && (rows == 1 || rows == shape[shape.len() - 2]);
            tail && t.dims().last() == Some(&size) && t.dims().iter().rev().skip(2).all(|&n| n == 1)
        };
        if size % 2 != 0 || !fits(cos.floats()?) || !fits(sin.floats()?) {
            let found = format!("{shape:?}, {:?} and {:?}", cos.shape(), sin.shape());
            return Err(OpError::shape(format!("a rotary embedding of {found}")));
        }
        let (xt, ct, st) =
            (layout::contiguous(x.floats()?)?, layout::contiguous(cos.tensor())?, layout::contiguous(sin.tensor())?);
        let turned = with_f32s(&xt, |x| with_f32s(&ct, |c| with_f32s(&st, |s| turned_rows(x, c, s, size))));
        match turned.flatten().flatten().transpose()? {
            Some(data) => one(x.with(Tensor::from_vec(data, shape, f.device())?)),
            None => {
                budget::claim(x.bytes().saturating_mul(5))?;
                let (low, high) =
                    (xt.narrow(shape.len() - 1, 0, size / 2)?, xt.narrow(shape.len() - 1, size / 2, size / 2)?);
                let halves = Tensor::cat(&[high.neg()?, low], shape.len() - 1)?;
                one(x.with((xt.broadcast_mul(&ct)? + halves.broadcast_mul(&st)?)?))
            }
        }
    })
}

fn turned_rows(x: &[f32], cos: &[f32], sin: &[f32], size: usize) -> Result<Vec<f32>, OpError> {
    budget::claim_of::<f32>(x.len())?;
    let mut out = zeros(x.len());
    mil_kernels::rotary::rotary(x, cos, sin, size, &mut out);
    Ok(out)
}

/// `engine.silu_mul(gate, x)`: `gate · sigmoid(gate) · x`.
pub(super) fn silu_mul(b: &Build<'_>) -> Result<Run, OpError> {
    let (gate, x) = (b.slot("gate")?, b.slot("x")?);
    b.run(move |f| {
        let (gate, x) = (f.array(gate)?, f.array(x)?);
        let shape = crate::ops::elementwise_binary::broadcast_shape(gate.shape(), x.shape())?;
        if let Some(result) = layout::binary(gate.floats()?, x.floats()?, &shape, SiluTimes)? {
            return one(x.with(result));
        }
        budget::claim_of::<f32>(shape.iter().product::<usize>().saturating_mul(2))?;
        one(x.with(gate.tensor().silu()?.broadcast_mul(x.tensor())?))
    })
}
