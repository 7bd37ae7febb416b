//! Matrix × panel on stored weights: `y[i, r] = Σ_c w[r, c] · x[i, c] + bias[r]`.
//!
//! A few rows of weights, as many as fit L1, are expanded to f32 and multiplied by the whole panel; the expansion is
//! paid once for all rows of `x`, and nothing is packed (see `tile`).

use std::cell::RefCell;
use std::ops::Range;

use crate::aligned::Aligned;
use crate::expand::expand_row;
use crate::isa::{self, Isa};
use crate::matvec::{self, Precision, Product, matvec_many};
use crate::parallel::{self, Shared};
use crate::sizes::{checked, size};
use crate::weight_matrix::WeightMatrix;

mod tile;
#[cfg(target_arch = "x86_64")]
mod vnni_i16;

use tile::Operand;

/// Rows of weights and of `x` in one tile.
const ROWS: usize = 6;
const PANEL: usize = 4;
/// Columns summed at a time: six rows of them and four of `x` fit 32 KB.
const COLS: usize = 768;
/// Rows of weights per task.
const TASK: usize = 48;
/// Multiply-adds below which waking a second thread does not pay.
const SPLIT: usize = 1 << 18;
/// Maximum number of elements of `x` shared by all threads (1 MB); beyond, each thread has its own rows.
const L2_ELEMENTS: usize = 1 << 18;
/// Elements and rows per thread block in that case (512 KB).
const BLOCK_ELEMENTS: usize = 1 << 17;
const MAX_BLOCK_ROWS: usize = 128;
/// Maximum number of rows of `x` for which row-by-row products are faster.
const MAX_STEPWISE: usize = 2;

/// Stride of padded rows: at least [`tile::STEP`] trailing zeros, so that tiles read whole steps and rows a power of
/// two long do not map to the same cache sets.
///
/// # Panics
/// If the width overflows.
fn padded(cols: usize) -> usize {
    cols.checked_next_multiple_of(tile::STEP).and_then(|n| n.checked_add(tile::STEP)).expect("width of a row")
}

/// Tiles of one instruction set, by rows of `x`: four, and one at a time for the rest.
#[derive(Clone, Copy)]
pub struct Variant {
    /// Required instruction set. Private, since running the kernel without it is undefined behaviour.
    isa: Isa,
    whole: tile::Tile<PANEL, ROWS>,
    single: tile::Tile<1, ROWS>,
}

impl Variant {
    /// Name for tests and benchmarks.
    pub fn name(&self) -> &'static str {
        self.isa.name()
    }

    /// True if the CPU supports it.
    pub fn available(&self) -> bool {
        self.isa.enabled()
    }
}

/// All variants, fastest first; the scalar definition is last.
pub const VARIANTS: &[Variant] = &[
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx512, whole: tile::avx512, single: tile::avx512 },
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx2, whole: tile::avx2, single: tile::avx2 },
    #[cfg(target_arch = "aarch64")]
    Variant { isa: Isa::Neon, whole: tile::neon, single: tile::neon },
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Variant { isa: Isa::Simd128, whole: tile::simd128, single: tile::simd128 },
    Variant { isa: Isa::Scalar, whole: tile::scalar, single: tile::scalar },
];

fn best() -> &'static Variant {
    isa::best(VARIANTS, |v| v.isa)
}

/// `Y = X · Wᵀ + bias` for `X` of `m` rows; `y` is `[m, rows]`, row-major.
///
/// # Panics
/// If the length of a slice does not match the matrix.
pub fn matmul_t(weight: WeightMatrix<'_>, x: &[f32], bias: Option<&[f32]>, precision: Precision, y: &mut [f32]) {
    let m = y.len().checked_div(weight.rows).unwrap_or(0);
    matmul_t_many(&mut [Product { weight, bias, out: y }], x, m, precision);
}

/// [`matmul_t`] of several matrices with the same `X`, in one parallel region.
///
/// # Panics
/// Same as [`matmul_t`].
pub fn matmul_t_many(products: &mut [Product<'_, '_>], x: &[f32], m: usize, precision: Precision) {
    let cols = columns(products, x, m);
    check_products(products, m, cols);
    if products.iter().all(|p| p.out.is_empty()) {
        return;
    }
    if matvec::few(products, x, m, precision) {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if m > MAX_STEPWISE && precision == Precision::Half && vnni_i16::run(products, x, m) {
        return;
    }
    if m > MAX_STEPWISE {
        return run(best(), products, &Rows { m, cols, fill: &copy_of(x, cols) });
    }
    for i in 0..m {
        let mut row: Vec<Product<'_, '_>> = Vec::with_capacity(products.len());
        for Product { weight, bias, out } in products.iter_mut() {
            row.push(Product { weight: *weight, bias: *bias, out: &mut out[i * weight.rows..(i + 1) * weight.rows] });
        }
        matvec_many(&mut row, &x[i * cols..(i + 1) * cols], precision);
    }
}

/// [`matmul_t_many`] for rows of `cols` elements that `fill(row, out)` produces on demand.
///
/// # Panics
/// Same as [`matmul_t`].
pub fn matmul_rows(products: &mut [Product<'_, '_>], m: usize, cols: usize, fill: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    run(best(), products, &Rows { m, cols, fill });
}

/// [`matmul_t`] with a given variant, for tests and benchmarks.
///
/// # Panics
/// Same as [`matmul_t`], or if the CPU does not support the variant.
pub fn matmul_t_with(variant: &Variant, weight: WeightMatrix<'_>, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert!(variant.available(), "a variant of this CPU");
    let m = y.len().checked_div(weight.rows).unwrap_or(0);
    let products = &mut [Product { weight, bias, out: y }];
    let cols = columns(products, x, m);
    run(variant, products, &Rows { m, cols, fill: &copy_of(x, cols) });
}

/// Rows of `x`, produced by `fill`.
struct Rows<'a> {
    m: usize,
    cols: usize,
    fill: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

/// Fill function that copies existing rows.
fn copy_of(x: &[f32], cols: usize) -> impl Fn(usize, &mut [f32]) + Sync {
    move |row, out| out.copy_from_slice(&x[row * cols..][..cols])
}

impl Rows<'_> {
    /// Writes padded rows starting at `first`.
    fn fill(&self, first: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(padded(self.cols)).enumerate() {
            (self.fill)(first + i, &mut out[..self.cols]);
            out[self.cols..].fill(0.0);
        }
    }
}

/// Checks that products match `m` rows of `cols` elements. If so, no offset of an element of a result overflows.
fn check_products(products: &[Product<'_, '_>], m: usize, cols: usize) {
    for p in products {
        // Without outputs the number of columns is irrelevant.
        let fits = p.weight.rows == 0 || p.weight.cols == cols;
        assert!(fits && checked([m, p.weight.rows]) == Some(p.out.len()), "sizes of a product");
        assert!(p.bias.is_none_or(|b| b.len() == p.weight.rows), "length of bias");
    }
}

/// Number of columns of `m` rows.
///
/// # Panics
/// If they do not have as many elements as `x`, unless no product has outputs: the number of columns is then unknown
/// and irrelevant.
fn columns(products: &[Product<'_, '_>], x: &[f32], m: usize) -> usize {
    let Some(p) = products.iter().find(|p| p.weight.rows > 0) else { return x.len().checked_div(m).unwrap_or(0) };
    assert_eq!(checked([m, p.weight.cols]), Some(x.len()), "length of x");
    p.weight.cols
}

/// Some rows of one product.
struct Task<'a> {
    weight: &'a WeightMatrix<'a>,
    bias: Option<&'a [f32]>,
    target: &'a Shared<f32>,
    first: usize,
}

fn run(variant: &Variant, products: &mut [Product<'_, '_>], x: &Rows<'_>) {
    let m = x.m;
    check_products(products, m, x.cols);
    if products.iter().all(|p| p.out.is_empty()) {
        return;
    }
    let targets: Vec<Shared<f32>> = products.iter_mut().map(|p| Shared(p.out.as_mut_ptr())).collect();
    let mut tasks = Vec::new();
    for (p, target) in products.iter().zip(&targets) {
        let task = |first| Task { weight: &p.weight, bias: p.bias, target, first };
        tasks.extend((0..p.weight.rows).step_by(TASK).map(task));
    }
    let total = products.iter().fold(0usize, |n, p| n.saturating_add(p.out.len().saturating_mul(x.cols)));
    let stride = padded(x.cols);
    size([m, stride]);
    let threads = if total < SPLIT { 1 } else { parallel::threads() };
    if m * stride > L2_ELEMENTS && m > threads {
        // Every thread has its own rows, which stay in cache while all weights stream by; shares keep all threads busy.
        let most = (BLOCK_ELEMENTS / stride).clamp(PANEL, MAX_BLOCK_ROWS);
        let shares = m.div_ceil(most * threads) * threads;
        let size = m.div_ceil(shares).next_multiple_of(PANEL);
        let share = |i: usize| {
            let first = i * size;
            X.with_borrow_mut(|buffer| {
                let n = size.min(m - first);
                let rows = buffer.at_least(n * stride);
                x.fill(first, rows);
                tasks.iter().for_each(|t| some_rows(variant, t, rows, first..first + n));
            });
        };
        let count = m.div_ceil(size);
        return if threads == 1 { (0..count).for_each(share) } else { parallel::for_each(count, share) };
    }
    X.with_borrow_mut(|buffer| {
        let rows = buffer.at_least(m * stride);
        if threads == 1 {
            x.fill(0, rows);
            return tasks.iter().for_each(|t| some_rows(variant, t, rows, 0..m));
        }
        parallel::chunks_mut(rows, 16 * stride, |i, rows| x.fill(i * 16, rows));
        // With few weights, tasks take a part of `x` each.
        let parts = (threads * 4).div_ceil(tasks.len().max(1)).min(m / 16).max(1);
        let size = m.div_ceil(parts).next_multiple_of(PANEL);
        parallel::for_each(tasks.len() * m.div_ceil(size), |t| {
            let first = t / tasks.len() * size;
            let range = first..m.min(first + size);
            some_rows(variant, &tasks[t % tasks.len()], &rows[first * stride..range.end * stride], range);
        });
    });
}

// Thread-local scratch: fresh memory would cost about as much as the computation in it.
thread_local! {
    /// Rows of `x`, padded.
    static X: RefCell<Aligned<f32>> = const { RefCell::new(Aligned::empty()) };
    /// Expanded rows of weights, padded.
    static WEIGHTS: RefCell<Aligned<f32>> = const { RefCell::new(Aligned::empty()) };
}

/// Outputs of a task for some padded rows of `x`.
fn some_rows(variant: &Variant, task: &Task<'_>, rows_of_x: &[f32], range: Range<usize>) {
    let (rows, cols) = (task.weight.rows, task.weight.cols);
    let stride = padded(cols);
    WEIGHTS.with_borrow_mut(|panel| {
        let panel = panel.at_least(ROWS * stride);
        let mut sums = vec![[0f32; ROWS]; range.len()];
        for start in (task.first..rows.min(task.first + TASK)).step_by(ROWS) {
            let n = ROWS.min(rows - start);
            let x = Operand { data: rows_of_x, stride };
            match task.weight.whole_rows(start, ROWS).filter(|_| n == ROWS && cols.is_multiple_of(tile::STEP)) {
                Some(data) => product(variant, x, Operand { data, stride: cols }, cols, &mut sums),
                None => {
                    // Rows missing from the last tile keep old contents and are not written.
                    for (r, out) in panel.chunks_exact_mut(stride).take(n).enumerate() {
                        expand_row(task.weight, start + r, &mut out[..cols]);
                        out[cols..].fill(0.0);
                    }
                    product(variant, x, Operand { data: panel, stride }, cols, &mut sums);
                }
            }
            for (i, sums) in range.clone().zip(&sums) {
                for (r, sum) in sums.iter().enumerate().take(n) {
                    let bias = task.bias.map_or(0.0, |b| b[start + r]);
                    // SAFETY: i < m and start + r < rows: within `y`, in rows or columns exclusive to this task.
                    unsafe { *task.target.get().add(i * rows + start + r) = sum + bias };
                }
            }
        }
    });
}

/// `sums[i][j]` = row `i` of `x` times row `j` of `w`; rows of `x` are followed by zeros.
fn product(variant: &Variant, x: Operand<'_>, w: Operand<'_>, cols: usize, sums: &mut [[f32; ROWS]]) {
    sums.fill([0.0; ROWS]);
    for start in (0..cols).step_by(COLS) {
        // Trailing zeros fill the last step.
        let width = COLS.min((cols - start).next_multiple_of(tile::STEP));
        let (groups, rest) = sums.as_chunks_mut::<PANEL>();
        let whole = groups.len() * PANEL;
        for (g, sums) in groups.iter_mut().enumerate() {
            (variant.whole)(x.from(g * PANEL, start), w.from(0, start), width, sums);
        }
        for (i, sums) in rest.iter_mut().enumerate() {
            (variant.single)(x.from(whole + i, start), w.from(0, start), width, std::array::from_mut(sums));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight_matrix::{Lut, Storage};

    #[test]
    fn no_rows_and_no_columns_are_fine() {
        let empty = WeightMatrix::new(0, 4, Storage::F32(&[])).expect("sizes match");
        matmul_t(empty, &[], None, Precision::Half, &mut []);
        let narrow = WeightMatrix::new(3, 0, Storage::F32(&[])).expect("sizes match");
        let mut y = [f32::NAN; 12];
        matmul_t(narrow, &[], Some(&[1.0, 2.0, 3.0]), Precision::Half, &mut y);
        assert_eq!(y, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn panels_agree_with_single_vectors() {
        for bits in [1u32, 2, 3, 4, 6, 8] {
            for (rows, cols, m) in [(8, 64, 3), (72, 100, 5), (136, 192, 17), (64, 8, 3), (16, 1040, 6)] {
                let indices: Vec<u8> =
                    (0..(rows * cols * bits as usize).div_ceil(8)).map(|i| (i * 37 + i / 251) as u8).collect();
                let tables: Vec<u8> = (0..(rows / 8) << bits)
                    .flat_map(|i| half::f16::from_f32((i % 97) as f32 / 50.0 - 1.0).to_le_bytes())
                    .collect();
                let lut = Lut { bits, indices: &indices, tables: &tables, group_rows: 8 };
                let weight = WeightMatrix::new(rows, cols, Storage::Lut(lut)).expect("sizes match");
                let x: Vec<f32> = (0..m * cols).map(|i| ((i * 31 % 101) as f32 - 50.0) / 50.0).collect();
                let bias: Vec<f32> = (0..rows).map(|r| r as f32).collect();
                for variant in VARIANTS.iter().filter(|v| v.isa.enabled()) {
                    let mut y = vec![f32::NAN; m * rows];
                    matmul_t_with(variant, weight, &x, Some(&bias), &mut y);
                    let mut row = vec![0f32; cols];
                    for r in 0..rows {
                        weight.expand_row(r, &mut row);
                        for i in 0..m {
                            let want: f64 = f64::from(bias[r])
                                + row.iter().zip(&x[i * cols..]).map(|(&w, &x)| f64::from(w * x)).sum::<f64>();
                            let got = f64::from(y[i * rows + r]);
                            let place = format!("{}, {bits} bits, row {r}, vector {i}", variant.name());
                            assert!((got - want).abs() < 1e-6 * (cols as f64 + 64.0), "{place}: {got} != {want}");
                        }
                    }
                }
            }
        }
    }
}
