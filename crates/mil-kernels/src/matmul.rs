//! Matrix × panel on stored weights: `y[i, r] = Σ_c w[r, c] · x[i, c] + bias[r]`.
//!
//! A few rows of weights are expanded to f32 while they fit L1, and multiplied by the whole panel; the
//! expansion is paid once for all rows of `x`, and nothing is packed (see `tile`).

use std::cell::RefCell;
use std::ops::Range;

use crate::aligned::Aligned;
use crate::expand::expand_row;
use crate::isa::{self, Isa};
use crate::matvec::{Precision, Product, matvec_many};
use crate::parallel::{self, Shared};
use crate::sizes::{checked, size};
use crate::weight_matrix::WeightMatrix;

mod tile;
#[cfg(target_arch = "x86_64")]
mod vnni_i16;

use tile::Operand;

/// Rows of weights in one tile, and rows of `x`.
const ROWS: usize = 6;
const PANEL: usize = 4;
/// Columns that are summed at a time: six rows of them and four of `x` fit 32 KB.
const COLS: usize = 768;
/// Rows of weights that one task takes.
const TASK: usize = 48;
/// Multiply-adds below which waking a second thread costs more than it saves.
const SPLIT: usize = 1 << 18;
/// Elements of `x` that all threads share (1 MB); of more, each has its own.
const L2_ELEMENTS: usize = 1 << 18;
/// Elements that a thread then works on at a time (512 KB), and rows.
const BLOCK_ELEMENTS: usize = 1 << 17;
const MAX_BLOCK_ROWS: usize = 128;
/// Rows of `x` up to which weights are better multiplied row by row.
const MAX_STEPWISE: usize = 2;

/// Distance between padded rows: at least [`tile::STEP`] zeros more than their own elements, so that tiles read whole
/// steps, and rows a power of two apart do not fall on the same lines of the cache.
///
/// # Panics
/// When no row is so wide.
fn padded(cols: usize) -> usize {
    cols.checked_next_multiple_of(tile::STEP).and_then(|n| n.checked_add(tile::STEP)).expect("width of a row")
}

/// The tiles of one instruction set, by rows of `x`: four, and the rest one at a time.
#[derive(Clone, Copy)]
pub struct Variant {
    /// What it needs: private, since running it where it is not enabled is undefined behaviour.
    isa: Isa,
    whole: tile::Tile<PANEL, ROWS>,
    single: tile::Tile<1, ROWS>,
}

impl Variant {
    /// Name for tests and benchmarks.
    pub fn name(&self) -> &'static str {
        self.isa.name()
    }

    /// Whether this CPU can run it.
    pub fn available(&self) -> bool {
        self.isa.enabled()
    }
}

/// All variants, fastest first; the last one is the definition.
pub const VARIANTS: &[Variant] = &[
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx512, whole: tile::avx512, single: tile::avx512 },
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx2, whole: tile::avx2, single: tile::avx2 },
    #[cfg(target_arch = "aarch64")]
    Variant { isa: Isa::Neon, whole: tile::neon, single: tile::neon },
    Variant { isa: Isa::Scalar, whole: tile::scalar, single: tile::scalar },
];

fn best() -> &'static Variant {
    isa::best(VARIANTS, |v| v.isa)
}

/// `Y = X · Wᵀ + bias` for `X` of `m` rows; `y` is `[m, rows]`, row-major.
///
/// # Panics
/// When a slice does not have the length that the matrix demands.
pub fn matmul_t(weight: WeightMatrix<'_>, x: &[f32], bias: Option<&[f32]>, precision: Precision, y: &mut [f32]) {
    let m = y.len().checked_div(weight.rows).unwrap_or(0);
    matmul_t_many(&mut [Product { weight, bias, out: y }], x, m, precision);
}

/// [`matmul_t`] of several matrices with the same `X`, in one parallel region.
///
/// # Panics
/// As [`matmul_t`].
pub fn matmul_t_many(products: &mut [Product<'_, '_>], x: &[f32], m: usize, precision: Precision) {
    let cols = columns(products, x, m);
    check_products(products, m, cols);
    if products.iter().all(|p| p.out.is_empty()) {
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

/// [`matmul_t_many`] for rows of `cols` elements that `fill(row, out)` makes when they are needed.
///
/// # Panics
/// As [`matmul_t`].
pub fn matmul_rows(products: &mut [Product<'_, '_>], m: usize, cols: usize, fill: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    run(best(), products, &Rows { m, cols, fill });
}

/// [`matmul_t`] with a given variant, for tests and benchmarks.
///
/// # Panics
/// As [`matmul_t`], and when this CPU can't run the variant.
pub fn matmul_t_with(variant: &Variant, weight: WeightMatrix<'_>, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert!(variant.available(), "a variant of this CPU");
    let m = y.len().checked_div(weight.rows).unwrap_or(0);
    let products = &mut [Product { weight, bias, out: y }];
    let cols = columns(products, x, m);
    run(variant, products, &Rows { m, cols, fill: &copy_of(x, cols) });
}

/// The rows of `x`, from the first one on.
struct Rows<'a> {
    m: usize,
    cols: usize,
    fill: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

/// How rows that exist are filled in.
fn copy_of(x: &[f32], cols: usize) -> impl Fn(usize, &mut [f32]) + Sync {
    move |row, out| out.copy_from_slice(&x[row * cols..][..cols])
}

impl Rows<'_> {
    /// Writes padded rows from `first` on.
    fn fill(&self, first: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(padded(self.cols)).enumerate() {
            (self.fill)(first + i, &mut out[..self.cols]);
            out[self.cols..].fill(0.0);
        }
    }
}

/// Checks that products have the sizes that `m` rows of `cols` elements give them. If so, no offset of an element of a
/// result wraps.
fn check_products(products: &[Product<'_, '_>], m: usize, cols: usize) {
    for p in products {
        // Without outputs the number of columns does not matter.
        let fits = p.weight.rows == 0 || p.weight.cols == cols;
        assert!(fits && checked([m, p.weight.rows]) == Some(p.out.len()), "sizes of a product");
        assert!(p.bias.is_none_or(|b| b.len() == p.weight.rows), "length of bias");
    }
}

/// Columns of `m` rows.
///
/// # Panics
/// When they do not have the elements of `x`, unless no product has outputs: their number can't be told then, and does
/// not matter.
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
        // Every thread has rows of its own, which stay near while all weights pass by; shares that fill all threads.
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
        // Where weights are few, tasks take a part of `x` each.
        let parts = (threads * 4).div_ceil(tasks.len().max(1)).min(m / 16).max(1);
        let size = m.div_ceil(parts).next_multiple_of(PANEL);
        parallel::for_each(tasks.len() * m.div_ceil(size), |t| {
            let first = t / tasks.len() * size;
            let range = first..m.min(first + size);
            some_rows(variant, &tasks[t % tasks.len()], &rows[first * stride..range.end * stride], range);
        });
    });
}

// Buffers that a thread keeps, as fresh memory costs about as much as what is computed in it.
thread_local! {
    /// Rows of `x`, padded.
    static X: RefCell<Aligned<f32>> = const { RefCell::new(Aligned::empty()) };
    /// Expanded rows of weights, padded.
    static WEIGHTS: RefCell<Aligned<f32>> = const { RefCell::new(Aligned::empty()) };
}

/// The outputs of a task for some rows of `x`, which lie padded in `rows_of_x`.
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
                    // Rows that a last tile lacks are what was there before, and not written.
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
                    // SAFETY: i < m and start + r < rows: inside `y`, in rows or columns of this task alone.
                    unsafe { *task.target.get().add(i * rows + start + r) = sum + bias };
                }
            }
        }
    });
}

/// `sums[i][j]` = row `i` of `x` times row `j` of `w`; past the end of a row of `x` zeros follow.
fn product(variant: &Variant, x: Operand<'_>, w: Operand<'_>, cols: usize, sums: &mut [[f32; ROWS]]) {
    sums.fill([0.0; ROWS]);
    for start in (0..cols).step_by(COLS) {
        // Zeros after the end of a row fill the last step.
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
