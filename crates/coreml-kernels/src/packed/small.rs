//! Products of small computed matrices: the right-hand one stays in L1, so packing it would cost more than it saves.

#![allow(clippy::needless_range_loop, reason = "tiles are addressed by row and column")]

use super::Matrices;
use crate::buffer_pool::zeros;
use crate::isa::{self, Isa};
use crate::parallel;
use crate::simd::Vector;
use crate::sizes;

/// Most elements of a right-hand matrix: 16 KB.
const MOST: usize = 1 << 12;
/// Rows of the left-hand matrices from which packing pays.
const ROWS: usize = 64;
/// Rows of a tile.
const TILE: usize = 4;
/// Products that take as long as an element of light work.
const PRODUCTS: usize = 8;

/// True if [`small`] is the faster way to multiply matrices of sizes `[m, k, n]`.
pub(super) fn is_small([m, k, n]: [usize; 3]) -> bool {
    m < ROWS && k.checked_mul(n).is_some_and(|count| count <= MOST)
}

/// One product, written whole.
///
/// # Safety
/// The CPU must support the instruction set, and the product must be [checked](Product::check).
type Kernel = unsafe fn(&Product<'_>, &mut [f32]);

/// All instruction sets, fastest first; the scalar definition is last.
const KERNELS: &[(Isa, Kernel)] = &[
    #[cfg(target_arch = "x86_64")]
    (Isa::Avx512, x86::avx512),
    #[cfg(target_arch = "x86_64")]
    (Isa::Avx2, x86::avx2),
    #[cfg(target_arch = "aarch64")]
    (Isa::Neon, multiply::<std::arch::aarch64::float32x4_t>),
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    (Isa::Simd128, multiply::<std::arch::wasm32::v128>),
    (Isa::Scalar, multiply::<f32>),
];

/// The same as [`multiply`](super::multiply), which has checked the sizes.
pub(super) fn small(sizes: [usize; 3], x: Matrices<'_>, y: Matrices<'_>) -> Vec<f32> {
    small_with(isa::best(KERNELS, |kernel| kernel.0), sizes, x, y)
}

fn small_with(kernel: &(Isa, Kernel), [m, k, n]: [usize; 3], x: Matrices<'_>, y: Matrices<'_>) -> Vec<f32> {
    assert!(kernel.0.enabled(), "a variant of this CPU");
    let mut out = zeros(sizes::size([x.starts.len(), m, n]));
    if out.is_empty() || k == 0 {
        return out;
    }
    let ([down, across], weight) = (y.strides, (m * n).saturating_mul(k) / PRODUCTS);
    let (left, x_step) = (x.data, x.strides[0]);
    parallel::weighed_rows_mut(&mut out, m * n, weight.max(1), |first, out| {
        let mut rows = Vec::new();
        for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
            let mut right = (&y.data[y.starts[first + i]..], down);
            if across != 1 && n > 1 {
                rows.resize(k * n, 0.0);
                for j in 0..n {
                    for c in 0..k {
                        rows[c * n + j] = right.0[c * down + j * across];
                    }
                }
                right = (&rows, n);
            }
            let (y, y_step) = right;
            let product = Product { sizes: [m, k, n], x: &left[x.starts[first + i]..], x_step, y, y_step };
            product.check(out);
            // SAFETY: the instruction set is enabled, and the sizes are checked.
            unsafe { kernel.1(&product, out) };
        }
    });
    out
}

/// Row-major matrices with the distances of their rows.
struct Product<'a> {
    /// Rows and columns of the left one, columns of the right one.
    sizes: [usize; 3],
    x: &'a [f32],
    x_step: usize,
    y: &'a [f32],
    y_step: usize,
}

impl Product<'_> {
    /// Panics if an element lies outside.
    fn check(&self, out: &[f32]) {
        let [m, k, n] = self.sizes;
        let fits = |rows, columns, step, len| sizes::last([(rows, step), (columns, 1)]).is_some_and(|last| last < len);
        assert!(fits(m, k, self.x_step, self.x.len()) && fits(k, n, self.y_step, self.y.len()), "sizes");
        assert_eq!(out.len(), m * n, "size of the result");
    }
}

/// # Safety
/// Same as [`Kernel`].
#[inline(always)]
unsafe fn multiply<V: Vector>(product: &Product<'_>, out: &mut [f32]) {
    let [m, _, n] = product.sizes;
    for row in (0..m).step_by(TILE) {
        let tall = m - row >= TILE;
        let mut column = 0;
        while column < n {
            let place = [row, column];
            // SAFETY: the tiles lie in the matrices; the last register of a row has as many elements as are left.
            unsafe {
                if n - column > V::LANES {
                    let last = (n - column - V::LANES).min(V::LANES);
                    if tall {
                        tile::<V, TILE, 2>(product, place, last, out);
                    } else {
                        for row in row..m {
                            tile::<V, 1, 2>(product, [row, column], last, out);
                        }
                    }
                } else if tall {
                    tile::<V, TILE, 1>(product, place, n - column, out);
                } else {
                    for row in row..m {
                        tile::<V, 1, 1>(product, [row, column], n - column, out);
                    }
                }
            }
            column += 2 * V::LANES;
        }
    }
}

/// `R` rows by `W` registers of a result, each summed in the order of the columns of `x`.
///
/// # Safety
/// Same as [`Kernel`]; the last register has `last` elements, the others all.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const W: usize>(
    product: &Product<'_>,
    [row, column]: [usize; 2],
    last: usize,
    out: &mut [f32],
) {
    let [_, k, n] = product.sizes;
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut sums = [[V::splat(0.0); W]; R];
        let mut x = product.x.as_ptr().add(row * product.x_step);
        let mut y = product.y.as_ptr().add(column);
        for _ in 0..k {
            let mut ys = [V::splat(0.0); W];
            for j in 0..W {
                let from = y.add(j * V::LANES);
                ys[j] = if j + 1 < W || last == V::LANES { V::load(from) } else { V::load_part(from, last) };
            }
            for r in 0..R {
                let x = V::splat(*x.add(r * product.x_step));
                for j in 0..W {
                    sums[r][j] = sums[r][j].add_product(x, ys[j]);
                }
            }
            x = x.wrapping_add(1);
            y = y.wrapping_add(product.y_step);
        }
        for r in 0..R {
            let to = out.as_mut_ptr().add((row + r) * n + column);
            for j in 0..W {
                let to = to.add(j * V::LANES);
                if j + 1 < W || last == V::LANES { sums[r][j].store(to) } else { sums[r][j].store_part(to, last) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Product, multiply};

    #[target_feature(enable = "avx512f,fma")]
    pub(super) unsafe fn avx512(product: &Product<'_>, out: &mut [f32]) {
        // SAFETY: guaranteed by the caller.
        unsafe { multiply::<__m512>(product, out) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(product: &Product<'_>, out: &mut [f32]) {
        // SAFETY: guaranteed by the caller.
        unsafe { multiply::<__m256>(product, out) }
    }
}

/// The product by every available instruction set, for tests.
#[cfg(test)]
pub(super) fn by_all<'a>(
    sizes: [usize; 3],
    x: Matrices<'a>,
    y: Matrices<'a>,
) -> impl Iterator<Item = (&'static str, Vec<f32>)> + 'a {
    KERNELS
        .iter()
        .filter(|kernel| kernel.0.enabled())
        .map(move |kernel| (kernel.0.name(), small_with(kernel, sizes, x, y)))
}
