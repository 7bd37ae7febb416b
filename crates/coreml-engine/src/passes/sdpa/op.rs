//! `engine.sdpa`: attention over whole sequences without materialising scores.

use candle_core::D;

use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::{OpSpec, since::*};
use crate::ops::sdpa::sdpa;
use crate::planned::Run;

pub(super) const SDPA: OpSpec = OpSpec::new("engine.sdpa", IOS15, build);

/// `engine.sdpa(query, key, value, mask?, scale = 1, key_columns = false)`; with `key_columns`, keys are `[… , d, m]`.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (q, k, v) = (b.slot("query")?, b.slot("key")?, b.slot("value")?);
    let mask = b.slot_opt("mask")?;
    let (scale, columns) = (b.attr_or("scale", 1.0f32)?, b.attr_or("key_columns", false)?);
    b.run(move |f| {
        let (q, k, v) = (f.array(q)?, f.array(k)?, f.array(v)?);
        if q.rank() < 2 || k.rank() < 2 || v.rank() < 2 {
            return Err(OpError::shape("attention of vectors"));
        }
        let keys = if columns { k.floats()?.transpose(D::Minus2, D::Minus1)? } else { k.floats()?.clone() };
        let mask = f.array_opt(mask)?;
        let mask = mask.as_ref().map(|m| m.floats()).transpose()?;
        one(q.with(sdpa(q.floats()?, &keys, v.floats()?, mask, scale)?))
    })
}
