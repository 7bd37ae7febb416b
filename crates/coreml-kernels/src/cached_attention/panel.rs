//! Many queries over a cache: two matrix products around a softmax; the keys and values of a head are widened once.

use std::cell::RefCell;

use half::slice::HalfFloatSliceExt;

use super::{Cache, Head};
use crate::aligned::Aligned;
use crate::matmul::matmul_t;
use crate::matvec::Precision;
use crate::weight_matrix::{Storage, WeightMatrix};

/// Number of queries per block of scores.
const QUERIES: usize = 128;
/// Number of positions transposed at a time.
const POSITIONS: usize = 16;

// Thread-local scratch: fresh memory would cost about as much as the computation in it.
thread_local! {
    static BUFFERS: RefCell<[Aligned<f32>; 4]> = const { RefCell::new([const { Aligned::empty() }; 4]) };
}

/// Attention of the queries of one KV head, heads outermost.
pub(super) fn one_head(head: &Head<'_>, q: &[f32], out: &mut [f32]) {
    let (open, dim, (k, v)) = (head.open, head.shape.dim, &head.cache);
    BUFFERS.with_borrow_mut(|[keys, values, scores, row]| {
        let (keys, values) = (keys.at_least(open * dim), values.at_least(open * dim));
        for (p, out) in keys.chunks_exact_mut(dim).enumerate() {
            widen(k, head.kv, p, out);
        }
        let rows = row.at_least(POSITIONS * dim);
        for first in (0..open).step_by(POSITIONS) {
            let count = POSITIONS.min(open - first);
            for (i, out) in rows.chunks_exact_mut(dim).enumerate().take(count) {
                widen(v, head.kv, first + i, out);
            }
            for (d, out) in values.chunks_exact_mut(open.max(1)).enumerate() {
                for (i, out) in out[first..first + count].iter_mut().enumerate() {
                    *out = rows[i * dim + d];
                }
            }
        }
        let matrix = |data, rows, cols| WeightMatrix::new(rows, cols, Storage::Strided(data, cols, 1));
        let (Ok(keys), Ok(values)) = (matrix(keys, open, dim), matrix(values, dim, open)) else {
            unreachable!("buffers have the sizes of their matrices");
        };
        for (part, (q, out)) in q.chunks(QUERIES * dim).zip(out.chunks_mut(QUERIES * dim)).enumerate() {
            let count = q.len() / dim;
            let scores = scores.at_least(count * open);
            matmul_t(keys, q, None, Precision::Single, scores);
            let mut sums = [0f32; QUERIES];
            for (i, (scores, sum)) in scores.chunks_exact_mut(open.max(1)).zip(&mut sums).enumerate() {
                *sum = head.weigh(part * QUERIES + i, scores);
            }
            matmul_t(values, scores, None, Precision::Single, out);
            for (out, sum) in out.chunks_exact_mut(dim).zip(sums) {
                out.iter_mut().for_each(|o| *o /= sum);
            }
        }
    });
}

/// Widens one cache row to `f32`.
fn widen(cache: &Cache<'_>, head: usize, position: usize, out: &mut [f32]) {
    let start = head * cache.head_stride + position * cache.row_stride;
    cache.data[start..][..out.len()].convert_to_f32_slice(out);
}
