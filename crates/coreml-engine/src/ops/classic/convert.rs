//! `engine.double`: a value as doubles, integers included. Between the parts of a pipeline.

use super::{Declared, numbers, shape_of};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.double", &[], build);

/// `engine.double(x)` → x in the declared type.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slot("x")?, Declared::of(b, 0)?);
    b.run(move |f| one(declared.value(numbers(f, &[x])?, &shape_of(f.value(x)?))?))
}
