//! Grouped-query attention over a KV cache in fp16, read in place.
//!
//! For head h of a query: `softmax(scale · q · Kᵀ + mask) · V` with the keys and values of head `h / (heads /
//! kv_heads)`. Trailing positions masked for every query (their weight underflows to exactly zero) are not read.

use half::f16;

use crate::parallel::chunks_mut;
use crate::sizes::{self, checked, size};

mod decode;
mod panel;

/// Keys or values of one layer: `[kv_heads, len, dim]`, contiguous rows.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    /// Elements from the layer's first one, at least up to the last unmasked position.
    pub data: &'a [f16],
    /// Stride between heads, in elements.
    pub head_stride: usize,
    /// Stride between positions, in elements.
    pub row_stride: usize,
}

impl Cache<'_> {
    /// True if the data contain `len` positions of `dim` elements for each head. If so, no offset of a position
    /// overflows.
    fn has(&self, heads: usize, len: usize, dim: usize) -> bool {
        let last = sizes::last([(heads, self.head_stride), (len, self.row_stride)]);
        len == 0 || last.and_then(|at| at.checked_add(dim)).is_some_and(|end| end <= self.data.len())
    }
}

/// Attention sizes.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Number of queries.
    pub queries: usize,
    /// Number of cached positions.
    pub len: usize,
    /// Head dimension.
    pub dim: usize,
}

/// A score this far below the largest has a weight of exactly zero: `exp(−104)` is below the smallest positive `f32`.
const CLOSED: f32 = -1e4;

/// Number of leading positions visible to any query: trailing ones have a mask of −1e4 or less for every query, while
/// the query itself sees an earlier position with a mask above −1e3.
pub fn open_positions(mask: &[f32], queries: usize, len: usize) -> usize {
    let mut open = 0;
    for row in mask.chunks_exact(len.max(1)).take(queries) {
        let last = row.iter().rposition(|&m| m > CLOSED || m.is_nan());
        match last {
            Some(last) if row[..=last].iter().any(|&m| m > CLOSED / 10.0) => open = open.max(last + 1),
            _ => return len,
        }
    }
    open
}

/// Maximum number of queries per KV head for widening cache rows per query rather than once for all.
const MAX_STEPWISE_QUERIES: usize = 8;

/// Multiply-adds below which waking a second thread does not pay.
const SPLIT: usize = 1 << 15;

/// Computes `out[heads, queries, dim]` from `q[heads, queries, dim]` (already rotated) and `mask[queries, len]`.
///
/// # Panics
/// If a slice is shorter than `shape` requires.
pub fn cached_attention(
    shape: Shape,
    q: &[f32],
    k: Cache<'_>,
    v: Cache<'_>,
    mask: Option<&[f32]>,
    scale: f32,
    out: &mut [f32],
) {
    let Shape { heads, kv_heads, queries, len, dim } = shape;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "heads");
    assert!(checked([heads, queries, dim]) == Some(out.len()) && q.len() >= out.len(), "queries");
    let masks = checked([queries, len]);
    assert!(mask.is_none_or(|m| masks.is_some_and(|n| m.len() >= n)), "mask");
    if out.is_empty() {
        return;
    }
    let open = mask.map_or(len, |m| open_positions(m, queries, len));
    assert!(k.has(kv_heads, open, dim) && v.has(kv_heads, open, dim), "keys and values");
    // Scores, and keys and values as `f32`.
    size([open, dim.max(2)]);
    let share = heads / kv_heads;
    let rows = (queries * share <= MAX_STEPWISE_QUERIES && open > 0).then(decode::best);
    // One task per KV head: its keys and values are converted once for all queries of its group.
    let work = |(kv, out): (usize, &mut [f32])| {
        let first = kv * share * queries * dim;
        let q = &q[first..first + share * queries * dim];
        let head = Head { shape, kv, cache: (k, v), mask, scale, open };
        if let Some(rows) = rows {
            return decode::one_head(rows, &head, q, out);
        }
        panel::one_head(&head, q, out);
    };
    let size = share * queries * dim;
    if out.len().saturating_mul(open) < SPLIT {
        out.chunks_mut(size).enumerate().for_each(work);
    } else {
        chunks_mut(out, size, |kv, out| work((kv, out)));
    }
}

/// One KV head and the queries attending to it.
struct Head<'a> {
    shape: Shape,
    /// Index of the KV head.
    kv: usize,
    /// Keys and values of all heads.
    cache: (Cache<'a>, Cache<'a>),
    mask: Option<&'a [f32]>,
    scale: f32,
    /// Number of leading positions read.
    open: usize,
}

impl Head<'_> {
    /// Turns dot products with the keys into unnormalised weights; `row` counts the queries of all heads. Returns their
    /// sum.
    fn weigh(&self, row: usize, scores: &mut [f32]) -> f32 {
        let mask = self.mask.map(|m| &m[row % self.shape.queries * self.shape.len..][..self.open]);
        crate::softmax::exponentials(scores, mask, self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_positions_are_found_and_odd_masks_are_not_cut() {
        let inf = f32::NEG_INFINITY;
        assert_eq!(open_positions(&[0.0, 0.0, inf, inf], 1, 4), 2);
        assert_eq!(open_positions(&[0.0, inf, inf, 0.0, 0.0, inf], 2, 3), 2);
        // Every position masked: IEEE arithmetic decides, over all of them.
        assert_eq!(open_positions(&[inf, inf], 1, 2), 2);
        assert_eq!(open_positions(&[-1e4, 0.0, -1e4], 1, 3), 2);
        assert_eq!(open_positions(&[], 0, 3), 0);
    }

    #[test]
    fn agrees_with_the_formula_in_f64() {
        // Six queries per KV head use the decoding path, twelve the panel path.
        formula(Shape { heads: 4, kv_heads: 2, queries: 3, len: 7, dim: 5 });
        formula(Shape { heads: 4, kv_heads: 2, queries: 6, len: 7, dim: 5 });
    }

    fn formula(shape: Shape) {
        let n = shape.queries;
        let value = |i: usize| ((i * 29 % 83) as f32 - 41.0) / 40.0;
        let q: Vec<f32> = (0..4 * n * 5).map(value).collect();
        let data: Vec<f16> = (0..2 * 2 * 7 * 5).map(|i| f16::from_f32(value(i + 3))).collect();
        let (k, v) = data.split_at(2 * 7 * 5);
        let cache = |data| Cache { data, head_stride: 35, row_stride: 5 };
        let mut mask = vec![0f32; n * 7];
        for (i, m) in mask.iter_mut().enumerate() {
            if i % 7 > (2 + i / 7).min(5) {
                *m = f32::NEG_INFINITY;
            }
        }
        let mut out = vec![f32::NAN; 4 * n * 5];
        cached_attention(shape, &q, cache(k), cache(v), Some(&mask), 0.5, &mut out);
        for h in 0..4 {
            for i in 0..n {
                let scores: Vec<f64> = (0..7)
                    .map(|p| {
                        let dot: f64 = (0..5)
                            .map(|d| f64::from(q[(h * n + i) * 5 + d]) * f64::from(k[(h / 2) * 35 + p * 5 + d]))
                            .sum();
                        dot * 0.5 + f64::from(mask[i * 7 + p])
                    })
                    .collect();
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                for d in 0..5 {
                    let want: f64 =
                        (0..7).map(|p| scores[p].exp() / sum * f64::from(v[(h / 2) * 35 + p * 5 + d])).sum();
                    let got = f64::from(out[(h * n + i) * 5 + d]);
                    assert!((got - want).abs() < 1e-5, "head {h} query {i}: {got} != {want}");
                }
            }
        }
    }
}
