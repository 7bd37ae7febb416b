//! `engine.scale`: shift and scale.

use super::{Declared, numbers, shape_of};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.scale", &[], build);

/// `engine.scale(x, shift, scale)` → scale · (x + shift), with one shift and scale or one for each element.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slot("x")?, Declared::of(b, 0)?);
    let (shift, scale): (Vec<f64>, Vec<f64>) = (b.attr("shift")?, b.attr("scale")?);
    b.run(move |f| {
        let mut data = numbers(f, &[x])?;
        let n = data.len();
        for (name, all) in [("shift", &shift), ("scale", &scale)] {
            if all.len() != 1 && all.len() != n {
                return Err(OpError::shape(format!("{} values of `{name}` for {n} elements", all.len())));
            }
        }
        let at = |all: &[f64], i: usize| if all.len() == 1 { all[0] } else { all[i] };
        data.iter_mut().enumerate().for_each(|(i, x)| *x = at(&scale, i) * (*x + at(&shift, i)));
        one(declared.value(data, &shape_of(f.value(x)?))?)
    })
}
