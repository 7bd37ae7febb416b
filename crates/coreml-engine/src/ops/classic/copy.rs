//! `engine.copy`: a value of any kind under another name. At the end of a pipeline.

use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.copy", &[], build);

/// `engine.copy(x)` → x.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    b.run(move |f| one(f.value(x)?.clone()))
}
