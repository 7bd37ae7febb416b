//! Micro-kernel of the panel product: a few rows of `x` times a few rows of weights, both contiguous along the summed
//! dimension.
//!
//! Each result owns one register of partial sums, so that nothing is packed or transposed. A result is the same in every
//! tile that it may fall in.

#![allow(clippy::needless_range_loop, reason = "tiles are addressed by row and column")]

use crate::simd::Vector;

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

/// `R` rows of `x` times `J` rows of weights at a time, in as many registers of sums.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn tile<V: Vector, const M: usize, const N: usize, const R: usize, const J: usize>(
    x: Operand<'_>,
    w: Operand<'_>,
    cols: usize,
    sums: &mut [[f32; N]; M],
) {
    const { assert!(STEP.is_multiple_of(V::LANES) && N.is_multiple_of(J)) };
    assert!(cols.is_multiple_of(STEP) && x.has(M, cols) && w.has(N, cols), "rows of the operands");
    for row in (0..M).step_by(R) {
        for first in (0..N).step_by(J) {
            // SAFETY: the caller's contract; rows have `cols` elements, a multiple of a register's. The last row again
            // where `R` does not divide them.
            let totals = unsafe {
                let mut acc = [[V::splat(0.0); J]; R];
                for k in (0..cols).step_by(V::LANES) {
                    let mut xs = [V::splat(0.0); R];
                    for (i, v) in xs.iter_mut().enumerate() {
                        *v = V::load(x.data.as_ptr().add((row + i).min(M - 1) * x.stride + k));
                    }
                    for j in 0..J {
                        let w = V::load(w.data.as_ptr().add((first + j) * w.stride + k));
                        for i in 0..R {
                            acc[i][j] = acc[i][j].add_product(xs[i], w);
                        }
                    }
                }
                let mut totals = [[0f32; J]; R];
                for (totals, acc) in totals.iter_mut().zip(&acc) {
                    for (totals, acc) in totals.chunks_mut(4).zip(acc.chunks(4)) {
                        let mut four = [V::splat(0.0); 4];
                        four[..acc.len()].copy_from_slice(acc);
                        totals.copy_from_slice(&V::totals(four)[..totals.len()]);
                    }
                }
                totals
            };
            for (sums, totals) in sums[row..].iter_mut().zip(&totals) {
                sums[first..].iter_mut().zip(totals).for_each(|(sum, total)| *sum += total);
            }
        }
    }
}

/// The tiles of one instruction set: `$rows` of `x` times `$weights` rows of weights at a time.
macro_rules! set {
    ($set:ident, $features:literal, $vector:ty, $rows:literal, $weights:literal) => {
        pub(super) fn $set<const M: usize, const N: usize>(
            x: Operand<'_>,
            w: Operand<'_>,
            cols: usize,
            sums: &mut [[f32; N]; M],
        ) {
            #[target_feature(enable = $features)]
            fn inner<const M: usize, const N: usize>(
                x: Operand<'_>,
                w: Operand<'_>,
                cols: usize,
                sums: &mut [[f32; N]; M],
            ) {
                // SAFETY: the features of this function.
                unsafe {
                    if M == 1 {
                        tile::<$vector, M, N, 1, $weights>(x, w, cols, sums)
                    } else {
                        tile::<$vector, M, N, $rows, $weights>(x, w, cols, sums)
                    }
                }
            }
            // SAFETY: the variant is used only where its instruction set is enabled.
            unsafe { inner(x, w, cols, sums) }
        }
    };
}

// 24 sums would leave too few registers of 32 for a compiler to keep all of them.
#[cfg(target_arch = "x86_64")]
set!(avx512, "avx512f,fma", std::arch::x86_64::__m512, 4, 3);
#[cfg(target_arch = "x86_64")]
set!(avx2, "avx2,fma,f16c", std::arch::x86_64::__m256, 2, 6);
#[cfg(target_arch = "aarch64")]
set!(neon, "neon", std::arch::aarch64::float32x4_t, 4, 6);
// Of the 16 registers of x86-64, where most browsers run.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
set!(simd128, "simd128", std::arch::wasm32::v128, 2, 6);
