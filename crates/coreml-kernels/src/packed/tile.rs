//! Micro-kernel of packed weights: some rows of `x` times a panel.
//!
//! Each result owns a register lane; a step multiplies one element of each row with a segment of the panel. Results are
//! summed in column order, independent of their tile.

#![allow(clippy::needless_range_loop, reason = "tiles are addressed by row and column")]

use super::PANEL;
use crate::activation::Gate;
use crate::elementwise::HardSwish;
use crate::isa::Isa;
use crate::simd::Vector;

/// Maximum number of rows of a tile.
pub(super) const MAX_ROWS: usize = 12;

/// Prefetch distance in panel elements: 16 steps.
const AHEAD: usize = 16 * PANEL;

/// Operands and destination of a tile.
pub(super) struct Sums<'a> {
    /// First elements of the rows' segments, `[segments, rows]`.
    pub(super) starts: &'a [*const f32],
    /// Parts of the panel to multiply these segments with.
    pub(super) segments: &'a [u32],
    /// Elements per segment.
    pub(super) length: usize,
    /// A panel, `[parts, length, PANEL]`.
    pub(super) weights: &'a [f32],
    pub(super) bias: &'a [f32; PANEL],
    /// Added to the results, in the same layout.
    pub(super) residual: Option<&'a [f32]>,
    /// The first result of the first row; the row stride is `step`.
    pub(super) out: *mut f32,
    pub(super) step: usize,
    /// Results per row, at most [`PANEL`].
    pub(super) width: usize,
    /// Applied before the bounds.
    pub(super) hard_swish: Option<HardSwish>,
    /// Lower and upper bound of results.
    pub(super) bounds: (f32, f32),
}

/// A tile of fixed height, starting at a column of the panel.
///
/// # Safety
/// The CPU must support the instruction set; every start has `length` elements, and the `width` elements of each row of
/// `out` are writable.
type Tile = unsafe fn(&Sums<'_>, usize);

/// Tiles of one instruction set.
pub(super) struct Tiles {
    pub(super) isa: Isa,
    /// Rows of the tallest tile.
    pub(super) rows: usize,
    /// Columns of a wide tile; a narrow one has `PANEL / 2`.
    columns: usize,
    /// By height, starting at one row.
    wide: &'static [Tile],
    narrow: &'static [Tile],
}

impl Tiles {
    /// Computes tiles of `rows` rows for all columns of the panel.
    ///
    /// # Safety
    /// Same as [`Tile`].
    pub(super) unsafe fn run(&self, rows: usize, sums: &Sums<'_>) {
        assert!(sums.starts.len() >= rows * sums.segments.len(), "starts of all rows");
        let parts = sums.segments.iter().max().map_or(0, |&s| s as usize + 1);
        assert!(sums.weights.len() >= parts * sums.length * PANEL, "a whole panel");
        let end = (rows - 1) * sums.step + sums.width;
        assert!(sums.width <= PANEL && sums.residual.is_none_or(|r| r.len() >= end), "results");
        let mut column = 0;
        while column < sums.width {
            let (tiles, columns) =
                if sums.width - column > PANEL / 2 { (self.wide, self.columns) } else { (self.narrow, PANEL / 2) };
            // SAFETY: guaranteed by the caller and the assertions above.
            unsafe { tiles[rows - 1](sums, column) };
            column += columns;
        }
    }
}

/// All instruction sets, fastest first; the scalar definition is last.
pub(super) const TILES: &[Tiles] = &[
    #[cfg(target_arch = "x86_64")]
    Tiles { isa: Isa::Avx512, rows: MAX_ROWS, columns: PANEL, wide: x86::AVX512_WIDE, narrow: x86::AVX512_NARROW },
    #[cfg(target_arch = "x86_64")]
    Tiles { isa: Isa::Avx2, rows: 6, columns: PANEL / 2, wide: x86::AVX2, narrow: x86::AVX2 },
    #[cfg(target_arch = "aarch64")]
    Tiles { isa: Isa::Neon, rows: 6, columns: PANEL / 2, wide: arm::NEON, narrow: arm::NEON },
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Tiles { isa: Isa::Simd128, rows: 3, columns: PANEL / 2, wide: SIMD128, narrow: SIMD128 },
    Tiles { isa: Isa::Scalar, rows: 1, columns: PANEL / 2, wide: SCALAR, narrow: SCALAR },
];

/// Three rows by four registers: twelve of the 16 registers of x86-64, where most browsers run, hold sums.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
const SIMD128: &[Tile] = &[
    tile::<std::arch::wasm32::v128, 1, 4>,
    tile::<std::arch::wasm32::v128, 2, 4>,
    tile::<std::arch::wasm32::v128, 3, 4>,
];

const SCALAR: &[Tile] = &[tile::<f32, 1, 16>];

/// A tile of `M` rows by `W` registers of columns.
///
/// # Safety
/// Same as [`Tile`].
#[inline(always)]
unsafe fn tile<V: Vector, const M: usize, const W: usize>(sums: &Sums<'_>, column: usize) {
    // SAFETY: the caller's contract: rows have `length` elements per segment, the panel has a row of `PANEL` for each,
    // and `column + W · LANES ≤ PANEL`.
    unsafe {
        let zero = V::splat(0.0);
        let mut acc = [[zero; W]; M];
        let panel = sums.weights.as_ptr().add(column);
        let mut starts = sums.starts.as_ptr();
        for &segment in sums.segments {
            let mut weights = panel.add(segment as usize * sums.length * PANEL);
            let mut rows = [std::ptr::null::<f32>(); M];
            for i in 0..M {
                rows[i] = *starts.add(i);
            }
            starts = starts.add(M);
            for k in 0..sums.length {
                let mut w = [zero; W];
                for j in 0..W {
                    w[j] = V::load(weights.add(j * V::LANES));
                    V::prefetch(weights.wrapping_add(j * V::LANES + AHEAD));
                }
                for i in 0..M {
                    let x = V::splat(*rows[i].add(k));
                    for j in 0..W {
                        acc[i][j] = acc[i][j].add_product(x, w[j]);
                    }
                }
                weights = weights.add(PANEL);
            }
        }
        // Small loops, which are unrolled to keep the sums in registers.
        let width = sums.width - column;
        let whole = W * V::LANES <= width;
        for j in 0..W {
            let bias = V::load(sums.bias.as_ptr().add(column + j * V::LANES));
            for i in 0..M {
                acc[i][j] = acc[i][j].plus(bias);
            }
        }
        if let Some(residual) = sums.residual {
            let from = residual.as_ptr().add(column);
            for i in 0..M {
                for j in 0..W {
                    let from = from.wrapping_add(i * sums.step + j * V::LANES);
                    let count = width.saturating_sub(j * V::LANES);
                    acc[i][j] = acc[i][j].plus(if whole { V::load(from) } else { V::load_part(from, count) });
                }
            }
        }
        if let Some(f) = &sums.hard_swish {
            let gate = Gate::new(f);
            for i in 0..M {
                for j in 0..W {
                    acc[i][j] = gate.at(acc[i][j]);
                }
            }
        }
        let (low, high) = (V::splat(sums.bounds.0), V::splat(sums.bounds.1));
        let to = sums.out.add(column);
        if whole {
            for i in 0..M {
                for j in 0..W {
                    acc[i][j].between(low, high).store(to.add(i * sums.step + j * V::LANES));
                }
            }
        } else {
            for i in 0..M {
                for j in 0..W {
                    let to = to.wrapping_add(i * sums.step + j * V::LANES);
                    acc[i][j].between(low, high).store_part(to, width.saturating_sub(j * V::LANES));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Sums, Tile, tile};

    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const M: usize, const W: usize>(sums: &Sums<'_>, column: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe { tile::<__m512, M, W>(sums, column) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const M: usize>(sums: &Sums<'_>, column: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe { tile::<__m256, M, 2>(sums, column) }
    }

    /// Twelve rows by two registers: 24 of 32 registers hold sums.
    pub(super) const AVX512_WIDE: &[Tile] = &[
        avx512::<1, 2>,
        avx512::<2, 2>,
        avx512::<3, 2>,
        avx512::<4, 2>,
        avx512::<5, 2>,
        avx512::<6, 2>,
        avx512::<7, 2>,
        avx512::<8, 2>,
        avx512::<9, 2>,
        avx512::<10, 2>,
        avx512::<11, 2>,
        avx512::<12, 2>,
    ];

    pub(super) const AVX512_NARROW: &[Tile] = &[
        avx512::<1, 1>,
        avx512::<2, 1>,
        avx512::<3, 1>,
        avx512::<4, 1>,
        avx512::<5, 1>,
        avx512::<6, 1>,
        avx512::<7, 1>,
        avx512::<8, 1>,
        avx512::<9, 1>,
        avx512::<10, 1>,
        avx512::<11, 1>,
        avx512::<12, 1>,
    ];

    /// Six rows by two registers: twelve of 16 registers hold sums.
    pub(super) const AVX2: &[Tile] = &[avx2::<1>, avx2::<2>, avx2::<3>, avx2::<4>, avx2::<5>, avx2::<6>];
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::float32x4_t;

    use super::{Sums, Tile, tile};

    unsafe fn neon<const M: usize>(sums: &Sums<'_>, column: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe { tile::<float32x4_t, M, 4>(sums, column) }
    }

    /// Six rows by four registers: 24 of 32 registers hold sums.
    pub(super) const NEON: &[Tile] = &[neon::<1>, neon::<2>, neon::<3>, neon::<4>, neon::<5>, neon::<6>];
}
