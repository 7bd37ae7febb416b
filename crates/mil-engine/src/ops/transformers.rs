//! Attention as one operation.
//!
//! Semantics after the reference documentation of coremltools' `transformers` chapter.

use candle_core::{D, DType};

use super::activation::softmax_last;
use super::linear::batched;
use super::{OpSpec, since::*};
use crate::build::{Build, Run, one};
use crate::error::OpError;

pub(super) const OPS: &[OpSpec] = &[OpSpec::new("scaled_dot_product_attention", IOS18, attention)];

/// `scaled_dot_product_attention(query, key, value, attn_mask?)`: softmax(q · kᵀ / √E + mask) · v; a boolean
/// mask keeps what is true.
fn attention(b: &Build<'_>) -> Result<Run, OpError> {
    let (q, k, v) = (b.slot("query")?, b.slot("key")?, b.slot("value")?);
    let mask = b.slot_opt("attn_mask")?;
    b.run(move |f| {
        let (q, k, v) = (f.array(q)?, f.array(k)?, f.array(v)?);
        if q.rank() < 2 || k.rank() < 2 || v.rank() < 2 {
            return Err(OpError::shape("attention of vectors"));
        }
        let width = q.shape()[q.rank() - 1].max(1) as f64;
        let scores = (batched(q.floats()?, &k.floats()?.transpose(D::Minus2, D::Minus1)?)? / width.sqrt())?;
        let scores = match f.array_opt(mask)? {
            None => scores,
            Some(m) if m.dtype().is_float() => scores.broadcast_add(m.tensor())?,
            Some(m) => {
                let keep = m.tensor().to_dtype(DType::U8)?.broadcast_as(scores.dims())?;
                let closed = candle_core::Tensor::full(f32::NEG_INFINITY, scores.dims(), f.device())?;
                keep.where_cond(&scores, &closed)?
            }
        };
        one(q.with(batched(&softmax_last(&scores)?, v.floats()?)?))
    })
}
