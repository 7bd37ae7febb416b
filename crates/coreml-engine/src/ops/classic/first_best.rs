//! `engine.first_best`: the class of the highest score.

use super::numbers;
use crate::array::Array;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.first_best", &[], build);

/// `engine.first_best(scores)` → the position of the highest score; of equal ones the first.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let scores = b.slot("scores")?;
    b.run(move |f| {
        let scores = numbers(f, &[scores])?;
        let best = (0..scores.len()).fold(0, |b, i| if scores[i] > scores[b] { i } else { b });
        one(Array::from_i64(vec![best as i64], &[], coreml_format::dtype::DataType::I64, &candle_core::Device::Cpu)?)
    })
}
