//! `engine.features`: numbers and arrays as one vector.

use super::{Declared, numbers};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::FromValue;

pub(super) const OP: OpSpec = OpSpec::new("engine.features", &[], build);

/// `engine.features(x…, lengths)` → the elements of every x, in order.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slots("x")?, Declared::of(b, 0)?);
    let lengths: Vec<i64> = b.attr("lengths")?;
    if lengths.len() != x.len() {
        return Err(OpError::shape(format!("{} lengths for {} features", lengths.len(), x.len())));
    }
    b.run(move |f| {
        for (i, (&slot, &wanted)) in x.iter().zip(&lengths).enumerate() {
            let found = Vec::<f64>::from_value("x", f.value(slot)?)?.len();
            if usize::try_from(wanted).ok() != Some(found) {
                return Err(OpError::shape(format!("feature {i} has {found} elements, not {wanted}")));
            }
        }
        let all = numbers(f, &x)?;
        let length = all.len();
        one(declared.value(all, &[length])?)
    })
}
