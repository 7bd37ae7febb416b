//! Few queries over a long cache: each cache row is widened in registers where it is used, once per query.

use half::f16;

use super::{Cache, Head};
use crate::isa::{self, Isa};

/// A way to multiply rows of a cache for one or two queries: `(queries, rows, distance, scores of each query)` and
/// `(weights of each query, rows, distance, results)`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    isa: Isa,
    scores: Kernel,
    mix: Kernel,
}

type Kernel = fn(&[f32], &[f16], usize, &mut [f32], Queries);

/// How many queries share the widened rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queries {
    One = 1,
    Two = 2,
}

/// What this CPU has for it.
pub(super) fn best() -> Rows {
    *isa::best(VARIANTS, |v| v.isa)
}

/// All instruction sets, fastest first; the last one is the definition.
const VARIANTS: &[Rows] = &[
    #[cfg(target_arch = "x86_64")]
    Rows { isa: Isa::Avx512, scores: x86::scores_avx512, mix: x86::mix_avx512 },
    #[cfg(target_arch = "x86_64")]
    Rows { isa: Isa::Avx2, scores: x86::scores_avx2, mix: x86::mix_avx2 },
    Rows { isa: Isa::Scalar, scores: plain::scores, mix: plain::mix },
];

/// The definition.
mod plain {
    use half::f16;
    use half::slice::HalfFloatSliceExt;

    use super::Queries;

    /// `scores[i][p] = q[i] · rows[p]`.
    pub(super) fn scores(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32], count: Queries) {
        let (dim, len) = (q.len() / count as usize, scores.len() / count as usize);
        let mut wide = vec![0f32; dim];
        for p in 0..len {
            rows[p * stride..][..dim].convert_to_f32_slice(&mut wide);
            for (q, scores) in q.chunks_exact(dim).zip(scores.chunks_exact_mut(len)) {
                scores[p] = dot(q, &wide);
            }
        }
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0f32; 8];
        let ((a, at), (b, bt)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        for (a, b) in a.iter().zip(b) {
            for i in 0..8 {
                sums[i] += a[i] * b[i];
            }
        }
        sums.iter().sum::<f32>() + at.iter().zip(bt).map(|(a, b)| a * b).sum::<f32>()
    }

    /// `out[i] += Σ_p weights[i][p] · rows[p]`.
    pub(super) fn mix(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32], count: Queries) {
        let (dim, len) = (out.len() / count as usize, weights.len() / count as usize);
        let mut wide = vec![0f32; dim];
        for p in 0..len {
            rows[p * stride..][..dim].convert_to_f32_slice(&mut wide);
            for (weights, out) in weights.chunks_exact(len).zip(out.chunks_exact_mut(dim)) {
                if weights[p] != 0.0 {
                    out.iter_mut().zip(&wide).for_each(|(o, v)| *o += weights[p] * v);
                }
            }
        }
    }
}

/// The queries of one KV head, heads outermost.
pub(super) fn one_head(rows: Rows, head: &Head<'_>, q: &[f32], out: &mut [f32]) {
    let (Head { open, .. }, (k, v)) = (head, &head.cache);
    let dim = head.shape.dim;
    let part = |c: &Cache<'_>| head.kv * c.head_stride..head.kv * c.head_stride + (open - 1) * c.row_stride + dim;
    let (keys, values) = (&k.data[part(k)], &v.data[part(v)]);
    let mut scores = vec![0f32; 2 * open];
    // Queries of two heads at a time, as most models have an even number for a KV head.
    for (pair, (q, out)) in q.chunks(2 * dim).zip(out.chunks_mut(2 * dim)).enumerate() {
        let (count, scores) = match q.len() / dim {
            1 => (Queries::One, &mut scores[..*open]),
            _ => (Queries::Two, &mut scores[..]),
        };
        (rows.scores)(q, keys, k.row_stride, scores, count);
        let mut sums = [1f32; 2];
        for (i, (scores, sum)) in scores.chunks_exact_mut(*open).zip(&mut sums).enumerate() {
            *sum = head.weigh(pair * 2 + i, scores);
        }
        out.fill(0.0);
        (rows.mix)(scores, values, v.row_stride, out, count);
        for (out, sum) in out.chunks_exact_mut(dim).zip(sums) {
            out.iter_mut().for_each(|o| *o /= sum);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::Queries;
    use crate::horizontal_sum::sum_lanes4;

    /// Sixteen elements as `f32`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn wide(row: &[f16; 16]) -> __m512 {
        // SAFETY: 32 bytes are there.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(row.as_ptr().cast()) })
    }

    /// Eight elements as `f32`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn half_wide(row: &[f16; 8]) -> __m256 {
        // SAFETY: 16 bytes are there.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(row.as_ptr().cast()) })
    }

    fn tail(q: &[f32], row: &[f16]) -> f32 {
        q.iter().zip(row).map(|(q, k)| q * k.to_f32()).sum()
    }

    fn mix_tail(weight: f32, row: &[f16], out: &mut [f32]) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * v.to_f32());
    }

    /// Rows of a cache are read once for each token and lie in memory that other layers have pushed out of the caches.
    const AHEAD: usize = 4096;

    /// Fetches the row `AHEAD` bytes on.
    #[inline(always)]
    fn ahead(row: &[f16]) {
        for line in row.chunks(32) {
            // SAFETY: a prefetch is a hint; no address is invalid for it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast::<i8>().wrapping_add(AHEAD)) }
        }
    }

    /// `scores[i][p] = q[i] · rows[p]`.
    pub(super) fn scores_avx512(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32], count: Queries) {
        #[target_feature(enable = "avx512f")]
        fn inner<const Q: usize>(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32]) {
            let (dim, len) = (q.len() / Q, scores.len() / Q);
            let q: [_; Q] = std::array::from_fn(|i| q[i * dim..][..dim].as_chunks::<16>());
            let row = |p: usize| {
                let row = &rows[p * stride..][..dim];
                ahead(row);
                row.as_chunks::<16>()
            };
            // The last ones again where four do not divide them.
            for first in (0..len).step_by(4) {
                let ks: [_; 4] = std::array::from_fn(|i| row((first + i).min(len - 1)));
                let mut sums = [[_mm512_setzero_ps(); 4]; Q];
                for c in 0..dim / 16 {
                    // SAFETY: 16 floats are there.
                    let q: [_; Q] = std::array::from_fn(|i| unsafe { _mm512_loadu_ps(q[i].0[c].as_ptr()) });
                    for p in 0..4 {
                        let k = wide(&ks[p].0[c]);
                        for i in 0..Q {
                            sums[i][p] = _mm512_fmadd_ps(q[i], k, sums[i][p]);
                        }
                    }
                }
                for (i, sums) in sums.into_iter().enumerate() {
                    let scores = &mut scores[i * len..][..len];
                    for ((score, sum), (_, k)) in scores[first..].iter_mut().zip(sum_lanes4(sums)).zip(&ks) {
                        *score = sum + tail(q[i].1, k);
                    }
                }
            }
        }
        // SAFETY: `best` found the feature.
        unsafe {
            match count {
                Queries::One => inner::<1>(q, rows, stride, scores),
                Queries::Two => inner::<2>(q, rows, stride, scores),
            }
        }
    }

    /// `out[i] += Σ_p weights[i][p] · rows[p]`.
    pub(super) fn mix_avx512(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32], count: Queries) {
        /// `B` registers of each result, from element `first` on.
        #[target_feature(enable = "avx512f")]
        fn part<const Q: usize, const B: usize>(
            weights: [&[f32]; Q],
            rows: &[f16],
            stride: usize,
            out: &mut [f32],
            first: usize,
        ) {
            let dim = out.len() / Q;
            let mut sums = [[_mm512_setzero_ps(); B]; Q];
            for p in 0..weights[0].len() {
                let row = &rows[p * stride + first..][..16 * B];
                if weights.iter().all(|w| w[p] == 0.0) {
                    continue;
                }
                ahead(row);
                let v: [__m512; B] = std::array::from_fn(|b| wide(&row.as_chunks::<16>().0[b]));
                for i in 0..Q {
                    let w = _mm512_set1_ps(weights[i][p]);
                    for b in 0..B {
                        sums[i][b] = _mm512_fmadd_ps(w, v[b], sums[i][b]);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                let out = out[i * dim + first..][..16 * B].as_chunks_mut::<16>().0;
                for (out, sum) in out.iter_mut().zip(sums) {
                    // SAFETY: room for 16 floats.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(out.as_ptr()), sum)) };
                }
            }
        }
        #[target_feature(enable = "avx512f")]
        fn inner<const Q: usize>(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32]) {
            let (dim, len) = (out.len() / Q, weights.len() / Q);
            let weights: [&[f32]; Q] = std::array::from_fn(|i| &weights[i * len..][..len]);
            let mut first = 0;
            while dim - first >= 16 {
                match dim - first {
                    128.. => (part::<Q, 8>(weights, rows, stride, out, first), first += 128),
                    64.. => (part::<Q, 4>(weights, rows, stride, out, first), first += 64),
                    _ => (part::<Q, 1>(weights, rows, stride, out, first), first += 16),
                };
            }
            for (weights, out) in weights.iter().zip(out.chunks_exact_mut(dim)) {
                for (p, &weight) in weights.iter().enumerate().filter(|(_, w)| first < dim && **w != 0.0) {
                    mix_tail(weight, &rows[p * stride + first..], &mut out[first..]);
                }
            }
        }
        // SAFETY: `best` found the feature.
        unsafe {
            match count {
                Queries::One => inner::<1>(weights, rows, stride, out),
                Queries::Two => inner::<2>(weights, rows, stride, out),
            }
        }
    }

    /// [`scores_avx512`] in registers of eight.
    pub(super) fn scores_avx2(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32], count: Queries) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32]) {
            let (qs, rest) = q.as_chunks::<8>();
            for (p, score) in scores.iter_mut().enumerate() {
                let (ks, ks_rest) = rows[p * stride..][..q.len()].as_chunks::<8>();
                // SAFETY: eight floats are there.
                let times =
                    |q: &[f32; 8], k, sum| _mm256_fmadd_ps(unsafe { _mm256_loadu_ps(q.as_ptr()) }, half_wide(k), sum);
                let (mut even, mut odd) = (_mm256_setzero_ps(), _mm256_setzero_ps());
                let ((qs, q_last), (ks, k_last)) = (qs.as_chunks::<2>(), ks.as_chunks::<2>());
                for (q, k) in qs.iter().zip(ks) {
                    even = times(&q[0], &k[0], even);
                    odd = times(&q[1], &k[1], odd);
                }
                for (q, k) in q_last.iter().zip(k_last) {
                    even = times(q, k, even);
                }
                let mut lanes = [0f32; 8];
                // SAFETY: eight floats are there.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(even, odd)) };
                *score = lanes.iter().sum::<f32>() + tail(rest, ks_rest);
            }
        }
        let (dim, len) = (q.len() / count as usize, scores.len() / count as usize);
        for (q, scores) in q.chunks_exact(dim).zip(scores.chunks_exact_mut(len)) {
            // SAFETY: `best` found the features.
            unsafe { inner(q, rows, stride, scores) }
        }
    }

    /// [`mix_avx512`] in registers of eight.
    pub(super) fn mix_avx2(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32], count: Queries) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32]) {
            for (p, &weight) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                let (vs, vs_rest) = rows[p * stride..][..out.len()].as_chunks::<8>();
                let (os, os_rest) = out.as_chunks_mut::<8>();
                let w = _mm256_set1_ps(weight);
                for (o, v) in os.iter_mut().zip(vs) {
                    // SAFETY: eight floats are there.
                    unsafe {
                        let sum = _mm256_fmadd_ps(w, half_wide(v), _mm256_loadu_ps(o.as_ptr()));
                        _mm256_storeu_ps(o.as_mut_ptr(), sum);
                    }
                }
                mix_tail(weight, vs_rest, os_rest);
            }
        }
        let (dim, len) = (out.len() / count as usize, weights.len() / count as usize);
        for (weights, out) in weights.chunks_exact(len).zip(out.chunks_exact_mut(dim)) {
            // SAFETY: `best` found the features.
            unsafe { inner(weights, rows, stride, out) }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn all_widths_agree_with_the_formula() {
        for (dim, count) in [1usize, 7, 8, 16, 23, 64, 128, 130, 213].into_iter().flat_map(|d| [(d, 1), (d, 2)]) {
            let (rows, stride) = (5, dim + 3);
            let value = |i: usize| ((i * 29 % 83) as f32 - 41.0) / 40.0;
            let q: Vec<f32> = (0..count * dim).map(value).collect();
            let data: Vec<f16> = (0..rows * stride).map(|i| f16::from_f32(value(i + 3))).collect();
            let weights = &[0.5, 0.0, -1.0, 2.0, 0.25, 0.0, 0.0, 1.5, 0.0, -3.0][..count * rows];
            let row = |p: usize| data[p * stride..][..dim].iter().map(|v| v.to_f32());
            let (mut dots, mut mixed) = (Vec::new(), vec![1f32; count * dim]);
            for q in q.chunks_exact(dim) {
                dots.extend((0..rows).map(|p| row(p).zip(q).map(|(k, q)| k * q).sum::<f32>()));
            }
            for (weights, mixed) in weights.chunks_exact(rows).zip(mixed.chunks_exact_mut(dim)) {
                for (p, w) in weights.iter().enumerate() {
                    mixed.iter_mut().zip(row(p)).for_each(|(o, v)| *o += w * v);
                }
            }
            let queries = if count == 1 { Queries::One } else { Queries::Two };
            for Rows { isa, scores, mix } in VARIANTS.iter().filter(|v| v.isa.enabled()) {
                let (mut s, mut o) = (vec![f32::NAN; count * rows], vec![1f32; count * dim]);
                scores(&q, &data, stride, &mut s, queries);
                mix(weights, &data, stride, &mut o, queries);
                let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
                assert!(near(&s, &dots) && near(&o, &mixed), "{} {dim}", isa.name());
            }
        }
    }
}
