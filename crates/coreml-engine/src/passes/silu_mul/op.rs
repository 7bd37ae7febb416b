//! `engine.silu_mul`: the gate of a feed-forward layer in a single pass over its operands.

use coreml_kernels::elementwise::SiluTimes;

use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::ops::elementwise_binary::broadcast_shape;
use crate::planned::Run;

pub(super) const SILU_MUL: OpSpec = OpSpec::elementwise("engine.silu_mul", IOS15, silu_mul);

/// `engine.silu_mul(gate, x)`: `gate · sigmoid(gate) · x`.
fn silu_mul(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (gate, x) = (b.slot("gate")?, b.slot("x")?);
    b.run(move |f| {
        let (gate, x) = (f.array(gate)?, f.array(x)?);
        let shape = broadcast_shape(gate.shape(), x.shape())?;
        if let Some(result) = layout::binary(gate.floats()?, x.floats()?, &shape, SiluTimes)? {
            return one(x.with(result));
        }
        budget::claim_of::<f32>(shape.iter().product::<usize>().saturating_mul(2))?;
        one(x.with(gate.tensor().silu()?.broadcast_mul(x.tensor())?))
    })
}
