//! Micro-kernel of the panel product: a few rows of `x` times a few rows of weights, both contiguous along the summed
//! dimension.
//!
//! Each result owns one register of partial sums, so that nothing is packed or transposed. A result is the same in every
//! tile that it may fall in.

#![allow(clippy::needless_range_loop, reason = "tiles are addressed by row and column")]

/// Columns are summed in steps of this many; callers pad rows with zeros.
pub(super) const STEP: usize = 16;

/// Rows of one operand.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    /// Elements from the first row's first on.
    pub(super) data: &'a [f32],
    /// Distance between rows.
    pub(super) stride: usize,
}

impl<'a> Operand<'a> {
    /// The operand from an element on.
    pub(super) fn from(self, row: usize, col: usize) -> Self {
        Self { data: &self.data[row * self.stride + col..], ..self }
    }

    fn row(&self, i: usize, cols: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..cols]
    }

    /// Whether `rows` of `cols` elements are there.
    fn has(&self, rows: usize, cols: usize) -> bool {
        self.data.len() >= (rows - 1) * self.stride + cols
    }
}

/// Adds to `sums[i][j]` the products of row `i` of `x` and row `j` of `w`: `cols` of them, a multiple of [`STEP`]; rows
/// lie the operand's stride apart.
pub(super) type Tile<const M: usize, const N: usize> =
    fn(x: Operand<'_>, w: Operand<'_>, cols: usize, sums: &mut [[f32; N]; M]);

/// The definition, two rows by three at a time.
pub(super) fn scalar<const M: usize, const N: usize>(
    x: Operand<'_>,
    w: Operand<'_>,
    cols: usize,
    sums: &mut [[f32; N]; M],
) {
    for i in 0..M {
        for j in (0..N).step_by(3) {
            let row = x.row(i, cols);
            // Past the last row, the last row again.
            let rows: [&[f32]; 3] = std::array::from_fn(|k| w.row((j + k).min(N - 1), cols));
            let mut acc = [[0f32; 8]; 3];
            for (k, x) in row.as_chunks::<8>().0.iter().enumerate() {
                for (acc, w) in acc.iter_mut().zip(rows) {
                    let w = &w.as_chunks::<8>().0[k];
                    for l in 0..8 {
                        acc[l] += x[l] * w[l];
                    }
                }
            }
            for (sum, acc) in sums[i][j..].iter_mut().zip(acc) {
                *sum += acc.iter().sum::<f32>();
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use std::arch::aarch64::*;

    use super::Operand;

    /// In registers of four: 24 sums of 32 registers.
    pub(in crate::matmul) fn neon<const M: usize, const N: usize>(
        x: Operand<'_>,
        w: Operand<'_>,
        cols: usize,
        sums: &mut [[f32; N]; M],
    ) {
        assert!(x.has(M, cols) && w.has(N, cols));
        // SAFETY: every aarch64 CPU has NEON; rows have `cols` elements (the assertion), and k + 4 ≤ cols.
        unsafe {
            let mut acc = [[vdupq_n_f32(0.0); N]; M];
            for k in (0..cols / 4 * 4).step_by(4) {
                let xs: [float32x4_t; M] = std::array::from_fn(|i| vld1q_f32(x.data.as_ptr().add(i * x.stride + k)));
                for j in 0..N {
                    let ws = vld1q_f32(w.data.as_ptr().add(j * w.stride + k));
                    for i in 0..M {
                        acc[i][j] = vfmaq_f32(acc[i][j], xs[i], ws);
                    }
                }
            }
            for i in 0..M {
                for j in 0..N {
                    sums[i][j] += vaddvq_f32(acc[i][j]);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::Operand;
    use crate::horizontal_sum::sum_lanes4;

    /// In registers of 16: the sums of four rows of `x` and three of `w` at a time (24 would leave too few registers
    /// for a compiler to keep all of them).
    #[target_feature(enable = "avx512f")]
    fn avx512<const M: usize, const N: usize>(x: Operand<'_>, w: Operand<'_>, cols: usize, sums: &mut [[f32; N]; M]) {
        const { assert!(N.is_multiple_of(3)) };
        assert!(x.has(M, cols) && w.has(N, cols));
        for first in (0..N).step_by(3) {
            let mut acc = [[_mm512_setzero_ps(); 3]; M];
            for k in (0..cols / 16 * 16).step_by(16) {
                // SAFETY: the assertion above: rows have `cols` elements, first + 2 < N, and k + 16 ≤ cols.
                let ws: [__m512; 3] = std::array::from_fn(|j| unsafe {
                    _mm512_loadu_ps(w.data.as_ptr().add((first + j) * w.stride + k))
                });
                for i in 0..M {
                    // SAFETY: as above.
                    let xs = unsafe { _mm512_loadu_ps(x.data.as_ptr().add(i * x.stride + k)) };
                    for j in 0..3 {
                        acc[i][j] = _mm512_fmadd_ps(xs, ws[j], acc[i][j]);
                    }
                }
            }
            for i in 0..M {
                let [a, b, c] = acc[i];
                let totals = sum_lanes4([a, b, c, _mm512_setzero_ps()]);
                for j in 0..3 {
                    sums[i][first + j] += totals[j];
                }
            }
        }
    }

    /// In registers of eight; sixteen of them hold the sums of two rows of `x`.
    #[target_feature(enable = "avx2,fma")]
    fn avx2<const M: usize, const N: usize>(x: Operand<'_>, w: Operand<'_>, cols: usize, sums: &mut [[f32; N]; M]) {
        assert!(x.has(M, cols) && w.has(N, cols));
        for first in (0..M).step_by(2) {
            // The last row of an odd number is computed twice.
            let rows = [first, (first + 1).min(M - 1)].map(|i| x.row(i, cols));
            let mut acc = [[_mm256_setzero_ps(); N]; 2];
            for k in (0..cols / 8 * 8).step_by(8) {
                // SAFETY: the assertion above: rows have `cols` elements, and k + 8 ≤ cols.
                let xs = rows.map(|row| unsafe { _mm256_loadu_ps(row.as_ptr().add(k)) });
                for j in 0..N {
                    // SAFETY: as above.
                    let ws = unsafe { _mm256_loadu_ps(w.data.as_ptr().add(j * w.stride + k)) };
                    for i in 0..2 {
                        acc[i][j] = _mm256_fmadd_ps(xs[i], ws, acc[i][j]);
                    }
                }
            }
            for (i, acc) in acc.into_iter().enumerate().take(M - first) {
                for (j, acc) in acc.into_iter().enumerate() {
                    let mut lanes = [0f32; 8];
                    // SAFETY: eight floats are there.
                    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc) };
                    sums[first + i][j] += lanes.iter().sum::<f32>();
                }
            }
        }
    }

    /// A tile for CPUs with AVX-512.
    pub(in crate::matmul) fn tile_avx512<const M: usize, const N: usize>(
        x: Operand<'_>,
        w: Operand<'_>,
        cols: usize,
        sums: &mut [[f32; N]; M],
    ) {
        // SAFETY: the variant is used only where the feature was found.
        unsafe { avx512(x, w, cols, sums) }
    }

    /// A tile for CPUs with AVX2 and FMA.
    pub(in crate::matmul) fn tile_avx2<const M: usize, const N: usize>(
        x: Operand<'_>,
        w: Operand<'_>,
        cols: usize,
        sums: &mut [[f32; N]; M],
    ) {
        // SAFETY: the variant is used only where the features were found.
        unsafe { avx2(x, w, cols, sums) }
    }
}
