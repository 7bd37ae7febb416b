//! `engine.from_end`: indices without negative ones.

use crate::array::Array;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;

pub(super) const FROM_END: OpSpec = OpSpec::elementwise("engine.from_end", IOS15, from_end);

/// `engine.from_end(x, rows)`: `x`, plus `rows` where it is negative.
fn from_end(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let rows = b.param_or("rows", 0i64)?;
    b.run(move |f| {
        let (x, rows) = (f.array(x)?, *rows.get(f)?);
        let mut all = x.to_i64s()?;
        for i in all.iter_mut().filter(|i| **i < 0) {
            *i += rows;
        }
        one(Array::from_i64(all, x.shape(), x.dtype(), f.device())?)
    })
}
