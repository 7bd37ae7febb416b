//! `engine.normalize`: vectors of norm 1.

use super::{Declared, numbers, shape_of};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.normalize", &[], build);

#[derive(Clone, Copy)]
enum Norm {
    Max,
    L1,
    L2,
}

/// `engine.normalize(x, norm)` → x over its norm: the largest element, the sum of magnitudes, the root of the sum of squares.
/// A norm of 0 leaves x.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slot("x")?, Declared::of(b, 0)?);
    let norm = b.required_choice("norm", &[("max", Norm::Max), ("l1", Norm::L1), ("l2", Norm::L2)])?;
    b.run(move |f| {
        let mut data = numbers(f, &[x])?;
        let norm = match norm {
            Norm::Max => data.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Norm::L1 => data.iter().map(|x| x.abs()).sum(),
            Norm::L2 => data.iter().map(|x| x * x).sum::<f64>().sqrt(),
        };
        if norm != 0.0 {
            data.iter_mut().for_each(|x| *x /= norm);
        }
        one(declared.value(data, &shape_of(f.value(x)?))?)
    })
}
