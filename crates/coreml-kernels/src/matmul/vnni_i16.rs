//! Matrix × panel in 16-bit fixed point (AVX-512 VNNI), for inputs that a model keeps in fp16 anyway: one instruction
//! multiplies twice as many i16 values as floats.
//!
//! Rows of `x`, and of weights without tables, are rounded to 13 bits and a sign in groups of [`GROUP`] elements
//! that share a scale; table entries as in [`crate::matvec::vnni_i16`]. Products are summed exactly within a group and
//! in f32 between groups. With `a` and `t` the largest magnitudes of a group (for tables: of a table), the error is at
//! most `2⁻¹⁴ · a · Σ|w| + 2⁻¹³ · t · Σ|x|`; rounding to fp16 alone moves an `x` of magnitude `a` by `2⁻¹² · a`.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::SPLIT;
use crate::aligned::Aligned;
use crate::dispatch::{SimdOp, dispatch};
use crate::isa::Isa;
use crate::matvec::avx512::{expand_row, fetch};
use crate::matvec::{Product, expand_and_dot};
use crate::parallel::{self, Shared};
use crate::weight_matrix::{Storage, WeightMatrix};

mod look_up;
mod round;

use look_up::LookUp;
use round::{round, round_row};

/// Columns within which look-ups change the order.
const BLOCK: usize = 128;
/// Words that share a scale and whose products are summed exactly: `32 · 8191² < 2³¹`.
const GROUP: usize = 32;
/// Largest word.
const TOP: f32 = 8191.0;
/// Pairs of words in a group.
const PAIRS: usize = GROUP / 2;
const GROUPS: usize = BLOCK / GROUP;
/// Rows of `x` in a panel, and in one register.
const PANEL: usize = 64;
const LANES: usize = 16;
/// Rows of weights that a task takes: their sums and a block of a panel fit L1.
const ROWS: usize = 48;
/// Columns below which filling a block up costs more than floats do.
const MIN_COLS: usize = 64;
/// Rows of `x` up to which weights that are to be rounded are sooner multiplied as floats.
const FLOATS: usize = 16;

/// Which column of a block lies where, by how weights come out of their stored form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As stored.
    Plain,
    /// Four-bit tables: columns `4·j + s` at `32·s + j`.
    Nibble,
    /// Other tables: in each half, the even eighths and then the odd ones.
    Lane,
}

impl Order {
    fn of(weight: &WeightMatrix<'_>) -> Self {
        match weight.form {
            Storage::Lut(l) if !(weight.cols * l.bits as usize).is_multiple_of(8) => Self::Plain,
            Storage::Lut(l) if l.bits == 4 => Self::Nibble,
            Storage::Lut(_) => Self::Lane,
            _ => Self::Plain,
        }
    }

    const fn column(self, at: usize) -> usize {
        match self {
            Self::Plain => at,
            Self::Nibble => at % 32 * 4 + at / 32,
            Self::Lane => at / 64 * 64 + at % 32 / 8 * 16 + at % 64 / 32 * 8 + at % 8,
        }
    }

    fn columns(self) -> [usize; BLOCK] {
        std::array::from_fn(|at| self.column(at))
    }
}

// Buffers that a thread keeps, as fresh memory costs about as much as what is computed in it.
thread_local! {
    /// Panels of `x`.
    static X: RefCell<Aligned<u32>> = const { RefCell::new(Aligned::empty()) };
    static TASK: RefCell<Buffers> = const { RefCell::new(Buffers { words: Aligned::empty(), row: Aligned::empty() }) };
}

struct Buffers {
    /// Rows of weights, as pairs of words.
    words: Aligned<u32>,
    /// One row of weights in f32.
    row: Aligned<f32>,
}

/// `Y = X · Wᵀ + bias` for all products, unless this CPU, `x` or the number of columns forbids it. The caller has checked
/// their sizes, and that there are rows.
pub(super) fn run(products: &mut [Product<'_, '_>], x: &[f32], m: usize) -> bool {
    let cols = x.len() / m;
    let rounded = products.iter().any(|p| !matches!(p.weight.form, Storage::Lut(_)));
    if cols < MIN_COLS || (rounded && m <= FLOATS) || !Isa::Avx512Vbmi.enabled() {
        return false;
    }
    let total = products.iter().fold(0usize, |n, p| n.saturating_add(p.out.len().saturating_mul(cols)));
    let alone = total < SPLIT;
    [Order::Plain, Order::Nibble, Order::Lane].into_iter().all(|order| {
        let mut tasks = Vec::new();
        for p in products.iter_mut().filter(|p| Order::of(&p.weight) == order) {
            let (weight, bias, target) = (&p.weight, p.bias, p.out.as_mut_ptr());
            for first in (0..weight.rows).step_by(ROWS) {
                tasks.push(Task { weight, bias, first, rows: ROWS.min(weight.rows - first), target: Shared(target) });
            }
        }
        if tasks.is_empty() {
            return true;
        }
        let source = Source { x, m, cols, order };
        X.with_borrow_mut(|buffer| {
            let data = buffer.at_least(source.size());
            if !source.pack(data, alone) {
                return false;
            }
            let panels = m.div_ceil(PANEL);
            let work = |i: usize| tasks[i % tasks.len()].run(&source.panel(data, i / tasks.len()));
            let count = tasks.len() * panels;
            if alone {
                (0..count).for_each(work)
            } else {
                parallel::for_each(count, work)
            }
            true
        })
    })
}

/// Rows of `x`, to be packed in one order.
struct Source<'a> {
    x: &'a [f32],
    m: usize,
    cols: usize,
    order: Order,
}

/// Packed rows: for each block of columns and each group of words in it, the scales of all rows, then the pairs of words,
/// each of all rows.
struct Panel<'a> {
    data: &'a [u32],
    /// Rows that `data` has place for, a multiple of [`LANES`].
    width: usize,
    /// The rows as they were, and how many come before them.
    x: &'a [f32],
    first: usize,
}

/// Elements of a panel for each row and block.
const STEP: usize = GROUPS * (1 + PAIRS);

impl Source<'_> {
    fn blocks(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    fn size(&self) -> usize {
        self.m.next_multiple_of(LANES) * self.blocks() * STEP
    }

    fn panel<'a>(&'a self, data: &'a [u32], index: usize) -> Panel<'a> {
        let first = index * PANEL;
        let rows = PANEL.min(self.m - first);
        let width = rows.next_multiple_of(LANES);
        let each = self.blocks() * STEP;
        Panel {
            data: &data[first * each..][..width * each],
            width,
            x: &self.x[first * self.cols..][..rows * self.cols],
            first,
        }
    }

    /// False when an element is not finite.
    fn pack(&self, data: &mut [u32], alone: bool) -> bool {
        let finite = AtomicBool::new(true);
        let columns = self.order.columns();
        for (x, data) in self.x.chunks(PANEL * self.cols).zip(data.chunks_mut(PANEL * self.blocks() * STEP)) {
            let width = (x.len() / self.cols).next_multiple_of(LANES);
            let block = |index, out: &mut [u32]| {
                if !dispatch(Pack { x, cols: self.cols, index, columns: &columns, width, out }) {
                    finite.store(false, Ordering::Relaxed);
                }
            };
            if alone {
                data.chunks_exact_mut(width * STEP).enumerate().for_each(|(index, out)| block(index, out));
            } else {
                parallel::chunks_mut(data, width * STEP, block);
            }
        }
        finite.into_inner()
    }
}

/// One block of columns of a panel.
struct Pack<'a> {
    x: &'a [f32],
    cols: usize,
    index: usize,
    columns: &'a [usize; BLOCK],
    width: usize,
    out: &'a mut [u32],
}

impl SimdOp for Pack<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> bool {
        let first = self.index * BLOCK;
        let count = BLOCK.min(self.cols - first);
        let mut finite = true;
        // Rows that only fill a register up.
        self.out.fill(0);
        for (row, x) in self.x.chunks_exact(self.cols).enumerate() {
            let mut block = [0f32; BLOCK];
            block[..count].copy_from_slice(&x[first..first + count]);
            let mut ordered = [0f32; BLOCK];
            for (to, &from) in ordered.iter_mut().zip(self.columns) {
                *to = block[from];
            }
            let groups = self.out.chunks_exact_mut((1 + PAIRS) * self.width);
            for (group, out) in ordered.as_chunks::<GROUP>().0.iter().zip(groups) {
                let mut pairs = [0u32; PAIRS];
                let (scale, ok) = round(group, &mut pairs);
                finite &= ok;
                out[row] = scale.to_bits();
                for (pair, out) in pairs.iter().zip(out[self.width..].chunks_exact_mut(self.width)) {
                    out[row] = *pair;
                }
            }
        }
        finite
    }
}

/// Some rows of one product.
struct Task<'a> {
    weight: &'a WeightMatrix<'a>,
    bias: Option<&'a [f32]>,
    first: usize,
    rows: usize,
    target: Shared<f32>,
}

/// Sums of a task: for each row of weights those of all rows of a panel.
#[repr(align(64))]
struct Sums([[f32; PANEL]; ROWS]);

/// Scales of a task's rows of weights.
enum Scales {
    /// One for each row.
    Rows([f32; ROWS]),
    /// One for each group of each row.
    Groups(Vec<f32>),
}

impl Task<'_> {
    /// The outputs for the rows of a panel.
    fn run(&self, x: &Panel<'_>) {
        let cols = self.weight.cols;
        let each = cols.div_ceil(BLOCK) * BLOCK / 2;
        TASK.with_borrow_mut(|buffers| {
            let words = buffers.words.at_least(ROWS * each);
            // SAFETY: a task is made only where its instruction set is enabled.
            let scales = unsafe { self.expand(words, each, &mut buffers.row) };
            let Some(scales) = scales else { return self.by_definition(x) };
            let mut sums = Sums([[0.0; PANEL]; ROWS]);
            // SAFETY: as above.
            unsafe {
                match (x.width / LANES, &scales) {
                    (1, Scales::Rows(_)) => all_tiles::<12, 1>(self.rows, words, each, None, x, &mut sums),
                    (2, Scales::Rows(_)) => all_tiles::<6, 2>(self.rows, words, each, None, x, &mut sums),
                    (3, Scales::Rows(_)) => all_tiles::<4, 3>(self.rows, words, each, None, x, &mut sums),
                    (_, Scales::Rows(_)) => all_tiles::<3, 4>(self.rows, words, each, None, x, &mut sums),
                    (1, Scales::Groups(s)) => all_tiles::<12, 1>(self.rows, words, each, Some(s), x, &mut sums),
                    (2, Scales::Groups(s)) => all_tiles::<6, 2>(self.rows, words, each, Some(s), x, &mut sums),
                    (3, Scales::Groups(s)) => all_tiles::<4, 3>(self.rows, words, each, Some(s), x, &mut sums),
                    (_, Scales::Groups(s)) => all_tiles::<3, 4>(self.rows, words, each, Some(s), x, &mut sums),
                }
            }
            let mut out = [0f32; ROWS];
            for i in 0..x.x.len() / cols {
                for (out, sums) in out.iter_mut().zip(&sums.0) {
                    *out = sums[i];
                }
                if let Scales::Rows(scales) = &scales {
                    out.iter_mut().zip(scales).for_each(|(o, s)| *o *= s);
                }
                self.write(x.first + i, &mut out[..self.rows]);
            }
        });
    }

    /// Writes the results of this task for one row of `x`.
    fn write(&self, row: usize, values: &mut [f32]) {
        if let Some(bias) = self.bias {
            values.iter_mut().zip(&bias[self.first..]).for_each(|(v, b)| *v += b);
        }
        // SAFETY: the output has `m` rows of `weight.rows` elements, and these columns belong to this task, this row to
        // its panel alone.
        let out = unsafe {
            std::slice::from_raw_parts_mut(self.target.get().add(row * self.weight.rows + self.first), values.len())
        };
        out.copy_from_slice(values);
    }

    /// What words can't hold.
    fn by_definition(&self, x: &Panel<'_>) {
        let mut out = [0f32; ROWS];
        for (i, row) in x.x.chunks_exact(self.weight.cols).enumerate() {
            expand_and_dot(self.weight, self.first, row, &mut out[..self.rows]);
            self.write(x.first + i, &mut out[..self.rows]);
        }
    }

    /// Asks for the weights of the next task, which are there when this one's are multiplied: row `i` of as many.
    fn fetch_next(&self, i: usize) {
        let bytes = match self.weight.form {
            Storage::F16(bytes) => bytes,
            Storage::Lut(l) => l.indices,
            _ => return,
        };
        let each = bytes.len() / self.weight.rows.max(1);
        let next = (self.first + self.rows + i) * each;
        if let Some(row) = bytes.get(next..next + each) {
            row.iter().step_by(64).for_each(|line| fetch(line));
        }
    }

    /// The rows as pairs of words, `each` of them apart; none when a weight is not finite.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn expand(&self, out: &mut [u32], each: usize, row: &mut Aligned<f32>) -> Option<Scales> {
        let mut scales = [0f32; ROWS];
        let rows = out.chunks_exact_mut(each).zip(self.first..self.first + self.rows);
        if let (Storage::Lut(l), true) = (self.weight.form, Order::of(self.weight) != Order::Plain) {
            let mut group = self.first / l.group_rows;
            let mut tables = LookUp::new(&l, group)?;
            for ((out, row), scale) in rows.zip(&mut scales) {
                self.fetch_next(row - self.first);
                if row / l.group_rows != group {
                    group = row / l.group_rows;
                    tables = LookUp::new(&l, group)?;
                }
                tables.row(&l, row, self.weight.cols, out);
                *scale = tables.scale;
            }
            return Some(Scales::Rows(scales));
        }
        let values = row.at_least(2 * each);
        values[self.weight.cols..].fill(0.0);
        let groups = each / PAIRS;
        let mut scales = vec![0f32; ROWS * groups];
        for ((out, row), scales) in rows.zip(scales.chunks_exact_mut(groups)) {
            self.fetch_next(row - self.first);
            expand_row(self.weight, row, &mut values[..self.weight.cols]);
            if !round_row(&values[..groups * GROUP], out, scales) {
                return None;
            }
        }
        Some(Scales::Groups(scales))
    }
}

/// All sums of a task: block by block, so that the panel's part stays in L1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn all_tiles<const R: usize, const T: usize>(
    rows: usize,
    words: &[u32],
    each: usize,
    scales: Option<&Vec<f32>>,
    x: &Panel<'_>,
    sums: &mut Sums,
) {
    const { assert!(ROWS.is_multiple_of(R) && R * T <= 12) };
    for (block, x) in x.data.chunks_exact(STEP * T * LANES).enumerate() {
        for (tile, sums) in sums.0.as_chunks_mut::<R>().0.iter_mut().enumerate().take(rows.div_ceil(R)) {
            let row = |r: usize| tile * R + r;
            let w = std::array::from_fn(|r| &words[row(r) * each..].as_chunks().0[block]);
            match scales {
                None => one_tile::<R, T, false>(w, [&[0.0; GROUPS]; R], x, sums),
                Some(scales) => {
                    let groups = each / PAIRS;
                    let scales = std::array::from_fn(|r| &scales[row(r) * groups..].as_chunks().0[block]);
                    one_tile::<R, T, true>(w, scales, x, sums);
                }
            }
        }
    }
}

/// `R` rows of weights times `16·T` rows of `x`, for one block of columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn one_tile<const R: usize, const T: usize, const SCALED: bool>(
    w: [&[u32; BLOCK / 2]; R],
    scales: [&[f32; GROUPS]; R],
    x: &[u32],
    sums: &mut [[f32; PANEL]; R],
) {
    assert!(x.len() == STEP * T * LANES);
    // SAFETY: T ≤ 4, so 16·T floats of 64 are there.
    let mut totals: [[__m512; T]; R] =
        std::array::from_fn(|r| std::array::from_fn(|t| unsafe { _mm512_loadu_ps(sums[r].as_ptr().add(t * LANES)) }));
    for (g, x) in x.chunks_exact((1 + PAIRS) * T * LANES).enumerate() {
        // SAFETY: a group is one register of scales and `PAIRS` of pairs for each of the T sixteens.
        let part = |k: usize, t: usize| unsafe { _mm512_loadu_si512(x.as_ptr().add((k * T + t) * LANES).cast()) };
        let mut exact = [[_mm512_setzero_si512(); T]; R];
        for pair in 0..PAIRS {
            let xs: [__m512i; T] = std::array::from_fn(|t| part(1 + pair, t));
            for r in 0..R {
                let w = _mm512_set1_epi32(w[r][g * PAIRS + pair] as i32);
                for t in 0..T {
                    exact[r][t] = _mm512_dpwssd_epi32(exact[r][t], xs[t], w);
                }
            }
        }
        for t in 0..T {
            let scale = _mm512_castsi512_ps(part(0, t));
            for r in 0..R {
                let mut sum = _mm512_cvtepi32_ps(exact[r][t]);
                if SCALED {
                    sum = _mm512_mul_ps(sum, _mm512_set1_ps(scales[r][g]));
                }
                totals[r][t] = _mm512_fmadd_ps(sum, scale, totals[r][t]);
            }
        }
    }
    for (sums, totals) in sums.iter_mut().zip(totals) {
        for (t, total) in totals.into_iter().enumerate() {
            // SAFETY: as for the loads.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(t * LANES), total) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::matmul_t;
    use crate::matvec::Precision;
    use crate::weight_matrix::{Blocks, Lut};

    /// Numbers that look random, below 2²⁴.
    fn noise(n: usize, seed: u32) -> Vec<u32> {
        let mut s = seed;
        let next = |_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            s >> 8
        };
        (0..n).map(next).collect()
    }

    fn bytes(n: usize, seed: u32) -> Vec<u8> {
        noise(n, seed).into_iter().map(|v| (v >> 7) as u8).collect()
    }

    fn halves(n: usize, seed: u32) -> Vec<u8> {
        let half = |v| half::f16::from_f32((v % 2001) as f32 / 1000.0 - 1.0).to_le_bytes();
        noise(n, seed).into_iter().flat_map(half).collect()
    }

    /// Against sums in f64 of the definition, within the bound of the module's documentation.
    fn check(weight: WeightMatrix<'_>, m: usize) {
        let (rows, cols) = (weight.rows, weight.cols);
        // Rows of different size, elements up to one.
        let x: Vec<f32> = noise(m * cols, 9)
            .iter()
            .enumerate()
            .map(|(i, v)| (v % 1999) as f32 / 1000.0 - 1.0 + i as f32 / 1e4)
            .collect();
        let bias: Vec<f32> = (0..rows).map(|r| r as f32 / 8.0).collect();
        let mut y = vec![f32::NAN; m * rows];
        assert!(run(&mut [Product { weight, bias: Some(&bias), out: &mut y }], &x, m), "the CPU has the features");
        let mut w = vec![0f32; cols];
        for r in 0..rows {
            weight.expand_row(r, &mut w);
            let top = |v: &[f32]| v.iter().fold(0f64, |t, v| t.max(f64::from(v.abs())));
            let sum = |v: &[f32]| v.iter().map(|v| f64::from(v.abs())).sum::<f64>();
            for (i, x) in x.chunks_exact(cols).enumerate() {
                let want =
                    f64::from(bias[r]) + w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
                // Entries of a table reach one; the largest of a row may not occur in it.
                let table = if matches!(weight.form, Storage::Lut(_)) { 1.0 } else { top(&w) };
                let bound = top(x) * sum(&w) / 16384.0 + table * sum(x) / 8192.0 + 1e-6 * (want.abs() + cols as f64);
                let got = f64::from(y[i * rows + r]);
                assert!((got - want).abs() <= bound, "row {r}, vector {i} of {m}: {got} != {want} ± {bound}");
            }
        }
    }

    #[test]
    fn all_forms_agree_with_the_definition() {
        if !Isa::Avx512Vbmi.enabled() {
            return;
        }
        for bits in [1u32, 2, 3, 4, 6, 8] {
            for (rows, cols, group_rows, m) in [
                (8, 64, 8, 3),
                (72, 128, 8, 17),
                (100, 200, 4, 33),
                (49, 328, 49, 50),
                (96, 1024, 8, 64),
                (50, 264, 1, 83),
            ] {
                let indices = bytes((rows * cols * bits as usize).div_ceil(8), bits + cols as u32);
                let tables = halves((rows / group_rows) << bits, 3 + bits);
                let lut = Lut { bits, indices: &indices, tables: &tables, group_rows };
                check(WeightMatrix::new(rows, cols, Storage::Lut(lut)).expect("sizes match"), m);
            }
        }
        for (rows, cols, m) in [(9, 64, 17), (60, 77, 20), (48, 300, 40), (97, 512, 130)] {
            check(WeightMatrix::new(rows, cols, Storage::F16(&halves(rows * cols, 5))).expect("sizes match"), m);
        }
        let (scale, data) = ((1..=8).map(|i| i as f32 / 100.0).collect::<Vec<_>>(), bytes(8 * 64, 11));
        let offset = None;
        let form = Blocks { bits: 8, signed: true, data: &data, scale: &scale, offset, block_rows: 4, block_cols: 16 };
        check(WeightMatrix::new(8, 64, Storage::Blocks(form)).expect("sizes match"), 18);
    }

    #[test]
    fn sums_of_the_largest_words_fit() {
        if !Isa::Avx512Vbmi.enabled() {
            return;
        }
        let largest: Vec<u8> = (0..16).flat_map(|_| half::f16::MAX.to_le_bytes()).collect();
        let lut = Lut { bits: 4, indices: &[0x5a; 512], tables: &largest, group_rows: 8 };
        let weight = WeightMatrix::new(8, 128, Storage::Lut(lut)).expect("sizes match");
        for value in [3f32, -3e30, 1e-45] {
            let mut y = [f32::NAN; 32];
            assert!(run(&mut [Product { weight, bias: None, out: &mut y }], &[value; 512], 4));
            let want = 128.0 * 65504.0 * f64::from(value);
            // The least float counts as zero.
            assert!(y.iter().all(|&y| (f64::from(y) - want).abs() <= 3e-4 * want.abs() + 1e-30), "{value}: {y:?}");
        }
    }

    #[test]
    fn values_that_are_not_finite_stay_what_they_are() {
        let finite = halves(8 * 16, 1);
        for odd in [half::f16::INFINITY, half::f16::NAN] {
            let mut tables = finite.clone();
            // The first entry of the fifth row's table.
            tables[4 * 32..4 * 32 + 2].copy_from_slice(&odd.to_le_bytes());
            let lut = |tables| Storage::Lut(Lut { bits: 4, indices: &[0x10; 256], tables, group_rows: 1 });
            let product = |tables, x: &[f32; 256]| {
                let mut y = [0f32; 32];
                let weight = WeightMatrix::new(8, 64, lut(tables)).expect("sizes match");
                matmul_t(weight, x, None, Precision::Half, &mut y);
                y
            };
            let y = product(&tables, &[1.0; 256]);
            assert!(y.iter().enumerate().all(|(i, y)| y.is_finite() == (i % 8 != 4)), "{y:?}");
            let mut x = [1.0; 256];
            x[70] = odd.to_f32();
            let y = product(&finite, &x);
            assert!(y.iter().enumerate().all(|(i, y)| y.is_finite() == (i / 8 != 1)), "{y:?}");
        }
    }
}
