//! Attention operations.
//!
//! Semantics follow the reference documentation of coremltools' `transformers` chapter.

use candle_core::{DType, Tensor};

use super::sdpa::sdpa;
use crate::budget::{Counted, claim_of};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;

pub(super) const OPS: &[OpSpec] = &[OpSpec::new("scaled_dot_product_attention", IOS18, attention)];

/// `scaled_dot_product_attention(query, key, value, attn_mask?)`: softmax(q · kᵀ / √E + mask) · v; a boolean mask keeps
/// true positions.
fn attention(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (q, k, v) = (b.slot("query")?, b.slot("key")?, b.slot("value")?);
    let mask = b.slot_opt("attn_mask")?;
    b.run(move |f| {
        let (q, k, v) = (f.array(q)?, f.array(k)?, f.array(v)?);
        if q.rank() < 2 || k.rank() < 2 || v.rank() < 2 {
            return Err(OpError::shape("attention of vectors"));
        }
        let width = q.shape()[q.rank() - 1].max(1) as f32;
        let mask = match f.array_opt(mask)? {
            Some(m) if !m.dtype().is_float() => {
                let keep = m.tensor().counted_to_dtype(DType::U8)?;
                let scalar = |v: f32| Tensor::new(v, f.device())?.broadcast_as(keep.dims());
                claim_of::<f32>(keep.elem_count())?;
                Some(keep.where_cond(&scalar(0.0)?, &scalar(f32::NEG_INFINITY)?)?)
            }
            other => other.map(|m| m.into_tensor()),
        };
        one(q.with(sdpa(q.floats()?, k.floats()?, v.floats()?, mask.as_ref(), 1.0 / width.sqrt())?))
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn scaled_dot_product_attention_attends_where_a_boolean_mask_is_true() {
        let body = "tensor<bool, [1, 2]> m = greater(x = tensor<fp32, [1, 2]>([[0, 1]]), y = fp32(0.5)); \
            tensor<fp32, [1, 1]> y = scaled_dot_product_attention(query = x, key = tensor<fp32, [2, 1]>([[4], [2]]), \
            value = tensor<fp32, [2, 1]>([[5], [7]]), attn_mask = m);";
        near(&of(body, &[1, 1], &[1.0]), &[7.0]);
    }

    #[test]
    fn scaled_dot_product_attention_over_equal_keys_is_the_mean() {
        let body = "tensor<fp32, [1, 1]> y = scaled_dot_product_attention(query = x, key = tensor<fp32, [2, 1]>([[4], [4]]), \
            value = tensor<fp32, [2, 1]>([[5], [7]]));";
        near(&of(body, &[1, 1], &[100.0]), &[6.0]);
    }
}
