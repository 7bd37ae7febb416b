//! Scaled dot-product attention over whole sequences, with a kernel where supported.

use candle_core::{D, Tensor};
use coreml_kernels::packed::{Heads, PANEL, Sizes, sdpa as kernel};
use coreml_kernels::parallel;

use super::activation::softmax_last;
use super::elementwise_binary::broadcast_shape;
use super::linear::batched;
use crate::budget::{Counted, claim_of, lent, mapped, products};
use crate::error::OpError;
use crate::layout;
use crate::shape::check_size;

/// `softmax(scale · q · kᵀ + mask) · v` for `q [… , n, d]`, `k [… , m, d]`, `v [… , m, w]` and a mask that broadcasts
/// to `[… , n, m]`, all floats.
pub(crate) fn sdpa(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scale: f32) -> Result<Tensor, OpError> {
    if let Some(result) = on_cpu(q, k, v, mask, scale)? {
        return Ok(result);
    }
    let scores = mapped(&batched(q, &k.transpose(D::Minus2, D::Minus1)?)?, |s| s * f64::from(scale))?;
    let scores = match mask {
        Some(mask) => scores.counted_broadcast(mask, Tensor::broadcast_add)?,
        None => scores,
    };
    batched(&softmax_last(&scores)?, v)
}

/// `None` for other devices, empty operands and mismatched sizes, which the generic path reports.
fn on_cpu(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, scale: f32) -> Result<Option<Tensor>, OpError> {
    let matrix = |t: &Tensor| match t.dims() {
        [outer @ .., rows, cols] => Some((outer.to_vec(), *rows, *cols)),
        _ => None,
    };
    let (Some((a, queries, dim)), Some((b, keys, key_dim)), Some((c, values, width))) =
        (matrix(q), matrix(k), matrix(v))
    else {
        return Ok(None);
    };
    let outer = broadcast_shape(&broadcast_shape(&a, &b)?, &c)?;
    let whole = |tail: [usize; 2]| [outer.as_slice(), &tail].concat();
    let scores = whole([queries, keys]);
    if dim != key_dim || keys != values || [&scores, &whole([dim, width])].iter().any(|s| s.contains(&0)) {
        return Ok(None);
    }
    if let Some(mask) = mask
        && broadcast_shape(&scores, mask.dims())? != scores
    {
        return Ok(None);
    }
    let heads: usize = outer.iter().product();
    let count = check_size(&whole([queries, width]))?;
    products(&[heads, queries, keys, dim.saturating_add(width)])?;
    claim_of::<f32>(count)?;
    // Head offsets; per thread, the packed keys and values of a head, and scores.
    let head = keys.saturating_mul(dim.saturating_add(width.next_multiple_of(PANEL)).saturating_add(32));
    let held = head.saturating_add(PANEL * dim).saturating_mul(parallel::threads().min(heads.saturating_mul(8)));
    let _held = lent(held.saturating_add(heads.saturating_mul(8)).saturating_mul(size_of::<f32>()))?;
    // Rows of contiguous elements, and the offset of each head.
    let side = |t: &Tensor, shape: Vec<usize>| -> Result<(Tensor, Vec<usize>), OpError> {
        let t = if t.rank() == 0 { &t.reshape(1)? } else { t };
        let last = t.rank() - 1;
        let t = if t.stride()[last] == 1 && t.dims()[last] == shape[shape.len() - 1] {
            t.clone()
        } else {
            let own: Vec<usize> = t.dims()[..last].iter().chain(shape.last()).copied().collect();
            layout::contiguous(&t.broadcast_as(own)?)?
        };
        let t = t.broadcast_as(shape)?;
        let start = |mut index: usize| {
            let mut at = 0;
            for (&n, &s) in outer.iter().zip(t.stride()).rev() {
                at += index % n * s;
                index /= n;
            }
            at
        };
        let starts = (0..heads).map(start).collect();
        Ok((t, starts))
    };
    let (q, qs) = side(q, whole([queries, dim]))?;
    let (k, ks) = side(k, whole([keys, dim]))?;
    let (v, vs) = side(v, whole([keys, width]))?;
    let mask = mask.map(|m| side(m, scores.clone())).transpose()?;
    let together = outer.last().copied().unwrap_or(1);
    let sizes = Sizes { queries, keys, dim, width, together };
    let row = |t: &Tensor| t.stride()[t.rank() - 2];
    let run = |q_data: &[f32], k_data: &[f32], v_data: &[f32], m_data: Option<&[f32]>| {
        let mask = m_data.zip(mask.as_ref()).map(|(data, (m, starts))| Heads { data, starts, row: row(m) });
        let (q, k, v) = (
            Heads { data: q_data, starts: &qs, row: row(&q) },
            Heads { data: k_data, starts: &ks, row: row(&k) },
            Heads { data: v_data, starts: &vs, row: row(&v) },
        );
        kernel(sizes, q, k, v, mask, scale)
    };
    let out = layout::with_elements(&q, |q| {
        layout::with_elements(&k, |k| {
            layout::with_elements(&v, |v| match &mask {
                None => Some(run(q, k, v, None)),
                Some((m, _)) => layout::with_elements(m, |m| run(q, k, v, Some(m))),
            })
        })
    });
    let Some(out) = out.flatten().flatten().flatten() else { return Ok(None) };
    // Heads are interleaved, as consumers of attention expect.
    if outer.is_empty() {
        return Ok(Some(Tensor::from_vec(out, (queries, width), q.device())?));
    }
    let shape = [&outer[..outer.len() - 1], &[queries, together, width]].concat();
    let rank = shape.len();
    Ok(Some(Tensor::from_vec(out, shape, q.device())?.transpose(rank - 3, rank - 2)?))
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn keys_that_the_mask_hides_have_no_weight() {
        let body = "tensor<fp32, [1, 1, 1]> y = engine.sdpa(query = x, key = tensor<fp32, [1, 2, 1]>([[[1], [2]]]), \
            value = tensor<fp32, [1, 2, 1]>([[[5], [7]]]), mask = tensor<fp32, [1, 1, 2]>([[[-1e30, 0]]]));";
        near(&of(body, &[1, 1, 1], &[3.0]), &[7.0]);
        refused(
            &body.replace("[1, 2, 1]>([[[1], [2]]])", "[1, 2, 2]>([[[1, 0], [2, 0]]])"),
            &[1, 1, 1],
            &[3.0],
            "sdpa",
        );
    }

    #[test]
    fn queries_of_all_heads_share_keys_that_broadcast() {
        let body = "tensor<fp32, [2, 1, 1]> y = engine.sdpa(query = x, key = tensor<fp32, [1, 2, 1]>([[[0], [100]]]), \
            value = tensor<fp32, [1, 2, 1]>([[[5], [7]]]));";
        near(&of(body, &[2, 1, 1], &[1.0, 0.0]), &[7.0, 6.0]);
    }
}
