//! Reductions and cumulative sums over the middle of three extents, `[outer, size, inner]`.
//!
//! Contiguous elements are reduced in lanes, others by columns. Long extents are split into parts of fixed size, so
//! that results do not depend on the number of threads.

use crate::buffer_pool::{recycle, zeros};
use crate::dispatch::{SimdOp, dispatch};
use crate::elementwise::{Binary, zip};
use crate::math;
use crate::parallel::{ColumnsMut, columns_mut, rows_mut, weighed_rows_mut};
use crate::sizes;
use crate::strided::Strided;

/// Number of lanes in which a row is reduced.
const LANES: usize = 16;
/// Number of columns reduced at once, so that their accumulators stay in L1.
const WIDTH: usize = 256;
/// Number of columns below which several rows are reduced at once.
const NARROW: usize = 64;
/// Size of a part of a long extent.
const PART: usize = 1 << 14;

/// `end(fold, size)` along the middle extent: the fold by `add` from `start`, in parts combined by `join`, for which
/// `start` is neutral. The result has the extents `[outer, inner]`.
///
/// # Panics
/// If the extents do not match the data or the size of the result overflows.
pub fn reduce<A: Copy + Send + Sync>(
    x: &[f32],
    extents: [usize; 3],
    start: A,
    add: impl Fn(A, f32) -> A + Sync,
    join: impl Fn(A, A) -> A + Sync,
    end: impl Fn(A, usize) -> f32,
) -> Vec<f32> {
    let [outer, size, inner] = extents;
    assert_eq!(Some(x.len()), sizes::checked([outer, size, inner]), "extents");
    if x.is_empty() {
        return vec![end(start, size); sizes::size([outer, inner])];
    }
    let parts = size.saturating_mul(inner.min(WIDTH)).div_ceil(PART);
    let height = size.div_ceil(parts);
    let parts = size.div_ceil(height);
    let mut known = vec![start; outer * parts * inner];
    // Narrow columns stay together.
    let unit = if inner < NARROW { inner } else { 1 };
    weighed_rows_mut(&mut known, unit, height * unit, |first, known| {
        let first = first * unit;
        dispatch(Columns { x, size, inner, parts, height, first, known, start, add: &add, join: &join });
    });
    if parts == 1 {
        return known.into_iter().map(|all| end(all, size)).collect();
    }
    let mut out = Vec::with_capacity(outer * inner);
    for parts in known.chunks_exact(parts * inner) {
        let (first, others) = parts.split_at(inner);
        out.extend(first.iter().enumerate().map(|(column, &first)| {
            let all = others.iter().skip(column).step_by(inner).fold(first, |a, &b| join(a, b));
            end(all, size)
        }));
    }
    out
}

/// `ln Σ eˣ` along the middle extent, without overflow; the result has the extents `[outer, inner]`. Takes as much memory as `x`.
///
/// # Panics
/// Same as [`reduce`].
pub fn log_sum_exp(x: &[f32], extents: [usize; 3]) -> Vec<f32> {
    /// `e` to the power of the distance to the largest element; where that is infinite, to the power of `x` itself.
    struct Exp;

    impl Binary for Exp {
        type Output = f32;

        #[inline(always)]
        fn at<const FMA: bool>(&self, x: f32, top: f32) -> f32 {
            math::exp::<FMA>(x - base(top))
        }
    }

    fn base(top: f32) -> f32 {
        if top.is_infinite() { 0.0 } else { top }
    }

    let tops = largest(x, extents);
    let [_, size, inner] = extents;
    let (all, rows) = ([size * inner, inner, 1], [inner, 0, 1]);
    let powers = zip(&extents, Strided { data: x, strides: &all }, Strided { data: &tops, strides: &rows }, Exp);
    let mut sums = sum(&powers, extents, |v| v, |s, _| s.ln());
    recycle(powers);
    sums.iter_mut().zip(tops).for_each(|(sum, top)| *sum += base(top));
    sums
}

/// Accumulators of some columns of some parts.
struct Columns<'a, A, Add, Join> {
    x: &'a [f32],
    size: usize,
    inner: usize,
    /// Number of parts of the extent, and rows per part; the last may be shorter.
    parts: usize,
    height: usize,
    /// Index of the first column among all columns of all parts.
    first: usize,
    known: &'a mut [A],
    start: A,
    add: &'a Add,
    join: &'a Join,
}

impl<A: Copy, Add: Fn(A, f32) -> A, Join: Fn(A, A) -> A> SimdOp for Columns<'_, A, Add, Join> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, size, inner, parts, height, mut first, known, start, add, join } = self;
        let mut left = known;
        while !left.is_empty() {
            let (part, column) = (first / inner, first % inner);
            let width = left.len().min(inner - column).min(WIDTH);
            let (known, next) = left.split_at_mut(width);
            let from = part % parts * height;
            let rows = height.min(size - from);
            let x = &x[(part / parts * size + from) * inner..][..rows * inner];
            if inner == 1 {
                known[0] = in_lanes(x, start, add, join);
            } else if inner < NARROW && rows > NARROW / inner {
                narrow(x, known, start, add, join);
            } else {
                for row in x.chunks_exact(inner) {
                    for (k, &v) in known.iter_mut().zip(&row[column..]) {
                        *k = add(*k, v);
                    }
                }
            }
            (first, left) = (first + width, next);
        }
    }
}

/// Folds a row.
#[inline(always)]
fn in_lanes<A: Copy>(x: &[f32], start: A, add: impl Fn(A, f32) -> A, join: impl Fn(A, A) -> A) -> A {
    let (blocks, mut rest) = x.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane = add(*lane, v);
        }
    }
    let lanes: [A; 8] = halved(lanes, &mut rest, &add, &join);
    let lanes: [A; 4] = halved(lanes, &mut rest, &add, &join);
    let lanes: [A; 2] = halved(lanes, &mut rest, &add, &join);
    let [all]: [A; 1] = halved(lanes, &mut rest, &add, &join);
    all
}

/// Joins both halves of the lanes, then adds as many remaining elements if available.
#[inline(always)]
fn halved<A: Copy, const N: usize, const HALF: usize>(
    lanes: [A; N],
    rest: &mut &[f32],
    add: &impl Fn(A, f32) -> A,
    join: &impl Fn(A, A) -> A,
) -> [A; HALF] {
    let mut out = [lanes[0]; HALF];
    for i in 0..HALF {
        out[i] = join(lanes[i], lanes[i + HALF]);
    }
    if let Some((block, others)) = rest.split_first_chunk::<HALF>() {
        for (lane, &v) in out.iter_mut().zip(block) {
            *lane = add(*lane, v);
        }
        *rest = others;
    }
    out
}

/// Folds all columns, with as many rows at once as fill [`NARROW`] columns.
#[inline(always)]
fn narrow<A: Copy>(x: &[f32], known: &mut [A], start: A, add: impl Fn(A, f32) -> A, join: impl Fn(A, A) -> A) {
    let inner = known.len();
    let wide = NARROW / inner * inner;
    let mut columns = [start; NARROW];
    for rows in x.chunks(wide) {
        for (k, &v) in columns[..wide].iter_mut().zip(rows) {
            *k = add(*k, v);
        }
    }
    for (column, k) in known.iter_mut().enumerate() {
        for &other in columns[..wide].iter().skip(column).step_by(inner) {
            *k = join(*k, other);
        }
    }
}

/// `end(Σ of(x), size)` along the middle extent, summed in f64; the result has the extents `[outer, inner]`.
///
/// # Panics
/// Same as [`reduce`].
pub fn sum(
    x: &[f32],
    extents: [usize; 3],
    of: impl Fn(f64) -> f64 + Sync,
    end: impl Fn(f64, usize) -> f64,
) -> Vec<f32> {
    let end = |sum, size| end(sum, size) as f32;
    reduce(x, extents, 0.0, |sum, v| sum + of(f64::from(v)), |a, b| a + b, end)
}

/// Maximum along the middle extent, NaN if there is one, −∞ if empty. The result has the extents `[outer, inner]`.
///
/// # Panics
/// Same as [`reduce`].
pub fn largest(x: &[f32], extents: [usize; 3]) -> Vec<f32> {
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    reduce(x, extents, f32::NEG_INFINITY, larger, larger, |v, _| v)
}

/// Minimum along the middle extent, NaN if there is one, ∞ if empty. The result has the extents `[outer, inner]`.
///
/// # Panics
/// Same as [`reduce`].
pub fn smallest(x: &[f32], extents: [usize; 3]) -> Vec<f32> {
    let smaller = |a: f32, b: f32| if b < a || b.is_nan() { b } else { a };
    reduce(x, extents, f32::INFINITY, smaller, smaller, |v, _| v)
}

/// Product along the middle extent, in f64. The result has the extents `[outer, inner]`.
///
/// # Panics
/// Same as [`reduce`].
pub fn product(x: &[f32], extents: [usize; 3]) -> Vec<f32> {
    reduce(x, extents, 1.0, |p, v| p * f64::from(v), |a, b| a * b, |p, _| p as f32)
}

/// Variant of a cumulative sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Excludes the element itself.
    pub exclusive: bool,
    /// Sums from the end.
    pub reverse: bool,
}

/// Cumulative sums along the middle extent, in f64.
///
/// # Panics
/// If the extents do not match the data.
pub fn running_sum(x: &[f32], [outer, size, inner]: [usize; 3], running: Running) -> Vec<f32> {
    assert_eq!(Some(x.len()), sizes::checked([outer, size, inner]), "extents");
    let mut out = zeros(x.len());
    if x.is_empty() {
        return out;
    }
    if inner == 1 {
        rows_mut(&mut out, size, |first, out| {
            let x = &x[first * size..][..out.len()];
            // Several rows at once, to hide the latency of the dependent sums.
            let (groups, mut rest) = (x.chunks_exact(TOGETHER * size), x.chunks_exact(TOGETHER * size).remainder());
            let (out, mut last) = out.split_at_mut(x.len() - rest.len());
            for (x, out) in groups.zip(out.chunks_exact_mut(TOGETHER * size)) {
                together::<TOGETHER>(x, out, size, running);
            }
            while !rest.is_empty() {
                let (x, out) = (rest.split_at(size), last.split_at_mut(size));
                together::<1>(x.0, out.0, size, running);
                (rest, last) = (x.1, out.1);
            }
        });
    } else {
        columns_mut(&mut out, [size, inner], WIDTH, |block, first, out| {
            dispatch(Sums { x: &x[block * size * inner..][..size * inner], inner, first, running, out });
        });
    }
    out
}

/// Some columns of a block of [`running_sum`].
struct Sums<'a, 'o> {
    x: &'a [f32],
    inner: usize,
    first: usize,
    running: Running,
    out: ColumnsMut<'o, f32>,
}

impl SimdOp for Sums<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, inner, first, running, mut out } = self;
        let (mut sums, size) = ([0f64; WIDTH], x.len() / inner);
        for i in 0..size {
            let row = running.place(i, size);
            for ((sum, &v), o) in sums.iter_mut().zip(&x[row * inner + first..(row + 1) * inner]).zip(out.row(row)) {
                let before = *sum;
                *sum += f64::from(v);
                *o = if running.exclusive { before } else { *sum } as f32;
            }
        }
    }
}

impl Running {
    /// The position of the i-th summand.
    #[inline(always)]
    fn place(self, i: usize, size: usize) -> usize {
        if self.reverse { size - 1 - i } else { i }
    }
}

/// Number of rows summed at once.
const TOGETHER: usize = 8;

/// Cumulative sums of `N` rows.
#[inline(always)]
fn together<const N: usize>(x: &[f32], out: &mut [f32], size: usize, running: Running) {
    let mut sums = [0f64; N];
    for i in 0..size {
        let at = running.place(i, size);
        for (row, sum) in sums.iter_mut().enumerate() {
            let before = *sum;
            *sum += f64::from(x[row * size + at]);
            out[row * size + at] = if running.exclusive { before } else { *sum } as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edge cases of extents: empty, one, parts, narrow and wide columns, lane tails.
    const EXTENTS: &[[usize; 3]] = &[
        [0, 3, 2],
        [2, 0, 3],
        [2, 3, 0],
        [1, 1, 1],
        [3, 7, 1],
        [70, 56, 1],
        [2, 100_001, 1],
        [1, 40_000, 1],
        [3, 5, 7],
        [2, 4001, 3],
        [1, 9000, 63],
        [1, 900, 64],
        [2, 64, 700],
        [1, 3, 20_000],
    ];

    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 2003) as f32 / 512.0 - 1.5).collect()
    }

    /// Elements along the middle extent for each result.
    fn rows(x: &[f32], [outer, size, inner]: [usize; 3]) -> Vec<Vec<f32>> {
        let row = |r: usize| (0..size).map(|i| x[(r / inner * size + i) * inner + r % inner]).collect();
        (0..outer * inner).map(row).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn results_are_those_of_the_definition() {
        for &extents in EXTENTS {
            let x = numbers(extents.iter().product());
            let rows = rows(&x, extents);
            let close = |got: Vec<f32>, want: &dyn Fn(&[f32]) -> f64| {
                assert_eq!(got.len(), rows.len(), "{extents:?}");
                for (row, got) in rows.iter().zip(got) {
                    let want = want(row);
                    assert!((f64::from(got) - want).abs() <= 1e-7 * want.abs(), "{extents:?}: {got} != {want}");
                }
            };
            let each = |row: &[f32], f: fn(f64) -> f64| row.iter().map(|&v| f(f64::from(v))).sum::<f64>();
            close(sum(&x, extents, |v| v, |s, _| s), &|row| each(row, |v| v));
            close(sum(&x, extents, |v| v * v, |s, n| s + n as f64), &|row| each(row, |v| v * v) + row.len() as f64);
            let small: Vec<f32> = x.iter().map(|v| 1.0 + v / 1e5).collect();
            let products = self::rows(&small, extents);
            for (got, row) in product(&small, extents).into_iter().zip(&products) {
                let want = row.iter().map(|&v| f64::from(v)).product::<f64>();
                assert!((f64::from(got) - want).abs() <= 1e-7 * want);
            }
            let tops = rows.iter().map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert!(largest(&x, extents).into_iter().eq(tops));
            let least = rows.iter().map(|row| row.iter().copied().fold(f32::INFINITY, f32::min));
            assert!(smallest(&x, extents).into_iter().eq(least));
        }
    }

    #[test]
    fn what_is_not_a_number_makes_extremes_and_sums() {
        // In every position: first, last, in a register tail, in another row.
        for size in [1, 3, 8, 9, 31, 1000] {
            for at in [0, size / 2, size - 1] {
                let mut x: Vec<f32> = (0..2 * size).map(|i| i as f32 - 3.0).collect();
                x[at] = f32::NAN;
                let is_nan = |v: Vec<f32>| [v[0].is_nan(), v[1].is_nan()];
                assert_eq!(is_nan(largest(&x, [2, size, 1])), [true, false]);
                assert_eq!(is_nan(smallest(&x, [2, size, 1])), [true, false]);
                assert_eq!(is_nan(sum(&x, [2, size, 1], |v| v, |s, _| s)), [true, false]);
                let across: Vec<f32> = (0..size).flat_map(|i| [x[i], x[size + i]]).collect();
                assert_eq!(is_nan(largest(&across, [1, size, 2])), [true, false]);
                assert_eq!(is_nan(smallest(&across, [1, size, 2])), [true, false]);
            }
        }
        assert_eq!(largest(&[], [1, 0, 1]), [f32::NEG_INFINITY]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn running_sums_add_what_they_say() {
        for &extents @ [outer, size, inner] in EXTENTS {
            let x = numbers(extents.iter().product());
            for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
                let out = running_sum(&x, extents, Running { exclusive, reverse });
                assert_eq!(out.len(), x.len());
                for column in 0..outer * inner {
                    let mut sum = 0f64;
                    for i in 0..size {
                        let i = if reverse { size - 1 - i } else { i };
                        let at = (column / inner * size + i) * inner + column % inner;
                        let before = sum;
                        sum += f64::from(x[at]);
                        assert_eq!(out[at], if exclusive { before } else { sum } as f32, "{extents:?}");
                    }
                }
            }
        }
    }
}
