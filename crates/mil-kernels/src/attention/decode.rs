//! Few queries over a long cache: each row of the cache is widened in registers where it is used, once for each query.

use half::f16;

use super::{Cache, Shape, one_query};

/// A way to multiply rows of a cache: `(q, rows, distance, scores)` and `(weights, rows, distance, out)`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    scores: fn(&[f32], &[f16], usize, &mut [f32]),
    mix: fn(&[f32], &[f16], usize, &mut [f32]),
}

/// What this CPU has for it.
pub(super) fn best() -> Option<Rows> {
    #[cfg(target_arch = "x86_64")]
    {
        let f16c = is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma");
        if f16c && is_x86_feature_detected!("avx512f") {
            return Some(Rows { scores: x86::scores_avx512, mix: x86::mix_avx512 });
        }
        if f16c && is_x86_feature_detected!("avx2") {
            return Some(Rows { scores: x86::scores_avx2, mix: x86::mix_avx2 });
        }
    }
    None
}

/// One KV head and what looks at it.
pub(super) struct Head<'a> {
    pub(super) shape: Shape,
    /// Index of the KV head.
    pub(super) kv: usize,
    /// Keys and values of all heads.
    pub(super) cache: (Cache<'a>, Cache<'a>),
    pub(super) mask: Option<&'a [f32]>,
    pub(super) scale: f32,
    /// Leading positions that are read.
    pub(super) open: usize,
}

/// The queries of one KV head, heads outermost.
pub(super) fn one_head(rows: Rows, head: &Head<'_>, q: &[f32], out: &mut [f32]) {
    let (Head { shape, open, .. }, (k, v)) = (head, &head.cache);
    let dim = shape.dim;
    let part = |c: &Cache<'_>| head.kv * c.head_stride..head.kv * c.head_stride + (open - 1) * c.row_stride + dim;
    let (keys, values) = (&k.data[part(k)], &v.data[part(v)]);
    let mut scores = vec![0f32; *open];
    for (at, (q, out)) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let mask = head.mask.map(|m| &m[at % shape.queries * shape.len..][..*open]);
        (rows.scores)(q, keys, k.row_stride, &mut scores);
        one_query(&mut scores, mask, head.scale, out, |weights, out| (rows.mix)(weights, values, v.row_stride, out));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use crate::sums::four_sums;

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

    /// `scores[p] = q · rows[p]`.
    pub(super) fn scores_avx512(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32]) {
        #[target_feature(enable = "avx512f")]
        fn inner(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32]) {
            let (qs, q_rest) = q.as_chunks::<16>();
            let row = |p: usize| rows[p * stride..][..q.len()].as_chunks::<16>();
            let (fours, last) = scores.as_chunks_mut::<4>();
            let first_last = fours.len() * 4;
            for (f, scores) in fours.iter_mut().enumerate() {
                let ks: [_; 4] = std::array::from_fn(|i| row(f * 4 + i));
                let mut sums = [_mm512_setzero_ps(); 4];
                for (c, q) in qs.iter().enumerate() {
                    // SAFETY: 16 floats are there.
                    let q = unsafe { _mm512_loadu_ps(q.as_ptr()) };
                    for i in 0..4 {
                        sums[i] = _mm512_fmadd_ps(q, wide(&ks[i].0[c]), sums[i]);
                    }
                }
                *scores = four_sums(sums);
                if !q_rest.is_empty() {
                    scores.iter_mut().zip(ks).for_each(|(s, (_, k))| *s += tail(q_rest, k));
                }
            }
            for (i, score) in last.iter_mut().enumerate() {
                let (ks, k_rest) = row(first_last + i);
                let mut sum = _mm512_setzero_ps();
                for (q, k) in qs.iter().zip(ks) {
                    // SAFETY: 16 floats are there.
                    sum = _mm512_fmadd_ps(unsafe { _mm512_loadu_ps(q.as_ptr()) }, wide(k), sum);
                }
                let zero = _mm512_setzero_ps();
                *score = four_sums([sum, zero, zero, zero])[0] + tail(q_rest, k_rest);
            }
        }
        // SAFETY: `best` found the feature.
        unsafe { inner(q, rows, stride, scores) }
    }

    /// `out += Σ_p weights[p] · rows[p]`.
    pub(super) fn mix_avx512(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32]) {
        #[target_feature(enable = "avx512f")]
        fn inner(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32]) {
            let weighted = || weights.iter().enumerate().filter(|(_, w)| **w != 0.0);
            let (blocks, rest) = out.as_chunks_mut::<64>();
            let done = blocks.len() * 64;
            for (b, out) in blocks.iter_mut().enumerate() {
                // Four registers of sums over all rows.
                let parts = out.as_chunks_mut::<16>().0;
                // SAFETY: 16 floats are there.
                let mut sums: [__m512; 4] = std::array::from_fn(|i| unsafe { _mm512_loadu_ps(parts[i].as_ptr()) });
                for (p, &weight) in weighted() {
                    let v = rows[p * stride + b * 64..][..64].as_chunks::<16>().0;
                    let w = _mm512_set1_ps(weight);
                    for i in 0..4 {
                        sums[i] = _mm512_fmadd_ps(w, wide(&v[i]), sums[i]);
                    }
                }
                for (part, sum) in parts.iter_mut().zip(sums) {
                    // SAFETY: room for 16 floats.
                    unsafe { _mm512_storeu_ps(part.as_mut_ptr(), sum) };
                }
            }
            for (p, &weight) in weighted() {
                mix_tail(weight, &rows[p * stride + done..][..rest.len()], rest);
            }
        }
        // SAFETY: `best` found the feature.
        unsafe { inner(weights, rows, stride, out) }
    }

    /// [`scores_avx512`] in registers of eight.
    pub(super) fn scores_avx2(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32]) {
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
        // SAFETY: `best` found the features.
        unsafe { inner(q, rows, stride, scores) }
    }

    /// [`mix_avx512`] in registers of eight.
    pub(super) fn mix_avx2(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32]) {
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
        // SAFETY: `best` found the features.
        unsafe { inner(weights, rows, stride, out) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn both_widths_agree_with_the_definition() {
            if !is_x86_feature_detected!("avx2")
                || !is_x86_feature_detected!("f16c")
                || !is_x86_feature_detected!("fma")
            {
                return;
            }
            for dim in [1usize, 7, 8, 16, 23, 64, 128, 130] {
                let (rows, stride) = (5, dim + 3);
                let value = |i: usize| ((i * 29 % 83) as f32 - 41.0) / 40.0;
                let q: Vec<f32> = (0..dim).map(value).collect();
                let data: Vec<f16> = (0..rows * stride).map(|i| f16::from_f32(value(i + 3))).collect();
                let weights = [0.5, 0.0, -1.0, 2.0, 0.25];
                let row = |p: usize| data[p * stride..][..dim].iter().map(|v| v.to_f32());
                let dots: Vec<f32> = (0..rows).map(|p| row(p).zip(&q).map(|(k, q)| k * q).sum()).collect();
                let mut mixed = vec![1f32; dim];
                for (p, w) in weights.iter().enumerate() {
                    mixed.iter_mut().zip(row(p)).for_each(|(o, v)| *o += w * v);
                }
                let mut all: Vec<(Scores, Mix)> = vec![(scores_avx2, mix_avx2)];
                if is_x86_feature_detected!("avx512f") {
                    all.push((scores_avx512, mix_avx512));
                }
                for (scores, mix) in all {
                    let (mut s, mut o) = (vec![f32::NAN; rows], vec![1f32; dim]);
                    scores(&q, &data, stride, &mut s);
                    mix(&weights, &data, stride, &mut o);
                    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
                    assert!(near(&s, &dots) && near(&o, &mixed), "{dim}");
                }
            }
        }

        type Scores = fn(&[f32], &[f16], usize, &mut [f32]);
        type Mix = fn(&[f32], &[f16], usize, &mut [f32]);
    }
}
