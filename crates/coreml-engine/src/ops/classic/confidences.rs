//! `engine.confidences`: confidences of classes and those that they are compared with.

use super::{Declared, numbers};
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.confidences", &[], build);

/// `engine.confidences(x)` → `[2, C]`: x and ones.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slot("x")?, Declared::of(b, 0)?);
    b.run(move |f| {
        let mut all = numbers(f, &[x])?;
        let count = all.len();
        budget::claim_of::<f64>(count)?;
        all.resize(2 * count, 1.0);
        one(declared.value(all, &[2, count])?)
    })
}
