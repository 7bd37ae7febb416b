//! `engine.select`: elements of an array.

use super::{Declared, numbers};
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.select", &[], build);

/// `engine.select(x, indices)` → those elements, counted in row-major order.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slot("x")?, Declared::of(b, 0)?);
    let indices: Vec<i64> = b.attr("indices")?;
    b.run(move |f| {
        let data = numbers(f, &[x])?;
        let at = |&i: &i64| {
            let found = usize::try_from(i).ok().and_then(|i| data.get(i)).copied();
            found.ok_or_else(|| OpError::shape(format!("element {i} of an array of {}", data.len())))
        };
        budget::claim_of::<f64>(indices.len())?;
        let picked: Vec<f64> = indices.iter().map(at).collect::<Result<_, _>>()?;
        one(declared.value(picked, &[indices.len()])?)
    })
}
