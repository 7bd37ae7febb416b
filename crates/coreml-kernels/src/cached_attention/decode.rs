//! Few queries over a long cache: each cache row is widened in registers at each use, once per query or pair.

use half::f16;

use super::{Cache, Head};
use crate::isa::{self, Isa};
use crate::simd::Vector;

/// Kernels that multiply cache rows for one or two queries: `(queries, rows, stride, scores per query)` and `(weights
/// per query, rows, stride, results)`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    isa: Isa,
    scores: Kernel,
    mix: Kernel,
}

type Kernel = fn(&[f32], &[f16], usize, &mut [f32], Queries);

/// Number of queries that share the widened rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queries {
    One = 1,
    Two = 2,
}

/// Fastest kernels available on this CPU.
pub(super) fn best() -> Rows {
    *isa::best(VARIANTS, |v| v.isa)
}

/// All instruction sets, fastest first; the scalar definition is last.
const VARIANTS: &[Rows] = &[
    #[cfg(target_arch = "x86_64")]
    Rows { isa: Isa::Avx512, scores: avx512::scores, mix: avx512::mix },
    #[cfg(target_arch = "x86_64")]
    Rows { isa: Isa::Avx2, scores: avx2::scores, mix: avx2::mix },
    #[cfg(target_arch = "aarch64")]
    Rows { isa: Isa::Neon, scores: neon::scores, mix: neon::mix },
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Rows { isa: Isa::Simd128, scores: simd128::scores, mix: simd128::mix },
    Rows { isa: Isa::Scalar, scores: plain::scores, mix: plain::mix },
];

/// Scalar definition.
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

/// Attention of the queries of one KV head, heads outermost.
pub(super) fn one_head(rows: Rows, head: &Head<'_>, q: &[f32], out: &mut [f32]) {
    let (Head { open, .. }, (k, v)) = (head, &head.cache);
    let dim = head.shape.dim;
    let part = |c: &Cache<'_>| head.kv * c.head_stride..head.kv * c.head_stride + (open - 1) * c.row_stride + dim;
    let (keys, values) = (&k.data[part(k)], &v.data[part(v)]);
    let mut scores = vec![0f32; 2 * open];
    // Two heads at a time, since most models have an even number of query heads per KV head.
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

/// Prefetches a row: rows are read once per token and have been evicted from the caches by other layers.
///
/// # Safety
/// The CPU must support the instruction set of `V`.
#[inline(always)]
unsafe fn fetch<V: Vector>(row: &[f16]) {
    /// Prefetch distance in bytes.
    const AHEAD: usize = 4096;
    for line in row.chunks(32) {
        // SAFETY: the caller's contract; a prefetch is a hint, no address is invalid for it.
        unsafe { V::prefetch(line.as_ptr().cast::<u8>().wrapping_add(AHEAD).cast()) }
    }
}

/// `scores[i][p] = q[i] · rows[p]`, four positions at a time.
///
/// # Safety
/// The CPU must support the instruction set of `V`.
#[inline(always)]
unsafe fn scores<V: Vector, const Q: usize>(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32]) {
    let (dim, len) = (q.len() / Q, scores.len() / Q);
    let whole = dim / V::LANES * V::LANES;
    for first in (0..len).step_by(4) {
        // The last position repeats if four do not divide the count.
        let mut ks = [&rows[..0]; 4];
        for (i, k) in ks.iter_mut().enumerate() {
            *k = &rows[(first + i).min(len - 1) * stride..][..dim];
            // SAFETY: the caller's contract.
            unsafe { fetch::<V>(k) };
        }
        // SAFETY: the caller's contract; queries and rows have `dim` elements, and `at + LANES ≤ whole ≤ dim`.
        let totals = unsafe {
            let mut sums = [[V::splat(0.0); 4]; Q];
            for at in (0..whole).step_by(V::LANES) {
                let mut qs = [V::splat(0.0); Q];
                for (i, v) in qs.iter_mut().enumerate() {
                    *v = V::load(q.as_ptr().add(i * dim + at));
                }
                for (p, k) in ks.iter().enumerate() {
                    let k = V::load_f16(k.as_ptr().add(at).cast());
                    for i in 0..Q {
                        sums[i][p] = sums[i][p].add_product(qs[i], k);
                    }
                }
            }
            let mut totals = [[0f32; 4]; Q];
            for (totals, sums) in totals.iter_mut().zip(sums) {
                *totals = V::totals(sums);
            }
            totals
        };
        for (i, totals) in totals.iter().enumerate() {
            let rest = &q[i * dim + whole..(i + 1) * dim];
            for ((score, total), k) in scores[i * len..][..len][first..].iter_mut().zip(totals).zip(&ks) {
                *score = total + rest.iter().zip(&k[whole..]).map(|(q, k)| q * k.to_f32()).sum::<f32>();
            }
        }
    }
}

/// `out[i] += Σ_p weights[i][p] · rows[p]`, in blocks of `B` registers per result.
///
/// # Safety
/// The CPU must support the instruction set of `V`.
#[inline(always)]
unsafe fn mix<V: Vector, const Q: usize, const B: usize>(
    weights: &[f32],
    rows: &[f16],
    stride: usize,
    out: &mut [f32],
) {
    let (dim, len) = (out.len() / Q, weights.len() / Q);
    let mut first = 0;
    // SAFETY: the caller's contract; each block lies within `dim`.
    unsafe {
        while dim - first >= B * V::LANES {
            mix_part::<V, Q, B>(weights, rows, stride, out, first);
            first += B * V::LANES;
        }
        while dim - first >= V::LANES {
            mix_part::<V, Q, 1>(weights, rows, stride, out, first);
            first += V::LANES;
        }
    }
    if first < dim {
        for (weights, out) in weights.chunks_exact(len).zip(out.chunks_exact_mut(dim)) {
            for (p, &weight) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                let row = &rows[p * stride + first..];
                out[first..].iter_mut().zip(row).for_each(|(o, v)| *o += weight * v.to_f32());
            }
        }
    }
}

/// # Safety
/// Same as [`mix`]; each result has `B` registers from element `first` on.
#[inline(always)]
unsafe fn mix_part<V: Vector, const Q: usize, const B: usize>(
    weights: &[f32],
    rows: &[f16],
    stride: usize,
    out: &mut [f32],
    first: usize,
) {
    let (dim, len) = (out.len() / Q, weights.len() / Q);
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[V::splat(0.0); B]; Q];
        for p in 0..len {
            let row = &rows[p * stride + first..][..B * V::LANES];
            let mut any = false;
            for i in 0..Q {
                any |= weights[i * len + p] != 0.0;
            }
            if !any {
                continue;
            }
            fetch::<V>(row);
            for (i, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(weights[i * len + p]);
                for (b, sum) in sums.iter_mut().enumerate() {
                    let v = V::load_f16(row.as_ptr().add(b * V::LANES).cast());
                    *sum = sum.add_product(weight, v);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (b, sum) in sums.iter().enumerate() {
                let to = out.as_mut_ptr().add(i * dim + first + b * V::LANES);
                V::load(to).plus(*sum).store(to);
            }
        }
    }
}

/// Kernels of one instruction set: `$set` with registers `$vector`, `$registers` of them per result.
macro_rules! set {
    ($set:ident, $features:literal, $vector:ty, $registers:literal) => {
        mod $set {
            use half::f16;

            use super::Queries;

            pub(super) fn scores(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32], count: Queries) {
                #[target_feature(enable = $features)]
                fn inner(q: &[f32], rows: &[f16], stride: usize, scores: &mut [f32], count: Queries) {
                    // SAFETY: features enabled by this function.
                    unsafe {
                        match count {
                            Queries::One => super::scores::<$vector, 1>(q, rows, stride, scores),
                            Queries::Two => super::scores::<$vector, 2>(q, rows, stride, scores),
                        }
                    }
                }
                // SAFETY: the variant is used only if its instruction set is enabled.
                unsafe { inner(q, rows, stride, scores, count) }
            }

            pub(super) fn mix(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32], count: Queries) {
                #[target_feature(enable = $features)]
                fn inner(weights: &[f32], rows: &[f16], stride: usize, out: &mut [f32], count: Queries) {
                    // SAFETY: features enabled by this function.
                    unsafe {
                        match count {
                            Queries::One => super::mix::<$vector, 1, $registers>(weights, rows, stride, out),
                            Queries::Two => super::mix::<$vector, 2, $registers>(weights, rows, stride, out),
                        }
                    }
                }
                // SAFETY: the variant is used only if its instruction set is enabled.
                unsafe { inner(weights, rows, stride, out, count) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
set!(avx512, "avx512f,f16c,fma", std::arch::x86_64::__m512, 8);
#[cfg(target_arch = "x86_64")]
set!(avx2, "avx2,fma,f16c", std::arch::x86_64::__m256, 4);
#[cfg(target_arch = "aarch64")]
set!(neon, "neon", std::arch::aarch64::float32x4_t, 8);
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
set!(simd128, "simd128", std::arch::wasm32::v128, 4);

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
