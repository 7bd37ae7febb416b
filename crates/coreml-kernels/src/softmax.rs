//! Softmax over the last or any other axis.

use crate::buffer_pool::alloc_rows_with;
use crate::buffer_pool::zeros;
use crate::dispatch::{SimdOp, dispatch};
use crate::elementwise::map_in_place;
use crate::math::exp;
use crate::parallel::{ColumnsMut, columns_mut};
use crate::sizes;

/// `e^x / Σ e^x` along the middle of three extents.
///
/// # Panics
/// If the extents do not match the data.
pub fn softmax(x: &[f32], [outer, size, inner]: [usize; 3]) -> Vec<f32> {
    assert_eq!(Some(x.len()), sizes::checked([outer, size, inner]), "extents");
    if x.is_empty() {
        return Vec::new();
    }
    if inner == 1 {
        // SAFETY: the work writes all of its rows.
        return unsafe {
            alloc_rows_with(x.len(), size, |first, out| {
                let rows = out.write_copy_of_slice(&x[first * size..][..out.len()]);
                for row in rows.chunks_exact_mut(size) {
                    let factor = 1.0 / exponentials(row, None, 1.0);
                    map_in_place(row, |v| v * factor);
                }
            })
        };
    }
    let mut out = zeros(x.len());
    columns_mut(&mut out, [size, inner], COLUMNS, |block, first, out| {
        dispatch(Columns { x: &x[block * size * inner..][..size * inner], inner, first, out });
    });
    out
}

/// Number of columns per task.
const COLUMNS: usize = 128;

/// Softmax of some columns of a block.
struct Columns<'a, 'o> {
    x: &'a [f32],
    inner: usize,
    first: usize,
    out: ColumnsMut<'o, f32>,
}

impl SimdOp for Columns<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, inner, first, mut out } = self;
        let width = COLUMNS.min(inner - first);
        let (mut tops, mut sums) = ([f32::NEG_INFINITY; COLUMNS], [0f32; COLUMNS]);
        for row in x.chunks_exact(inner) {
            for (top, &v) in tops[..width].iter_mut().zip(&row[first..]) {
                *top = if v > *top { v } else { *top };
            }
        }
        for (i, row) in x.chunks_exact(inner).enumerate() {
            for (((sum, &top), &v), o) in sums.iter_mut().zip(&tops).zip(&row[first..first + width]).zip(out.row(i)) {
                *o = exp::<FMA>(v - top);
                *sum += *o;
            }
        }
        for sum in &mut sums {
            *sum = 1.0 / *sum;
        }
        for i in 0..x.len() / inner {
            for (o, &factor) in out.row(i).iter_mut().zip(&sums) {
                *o *= factor;
            }
        }
    }
}

/// Replaces scores by `e^(score · scale + mask − top)` with the largest exponent as `top`; returns their sum.
pub(crate) fn exponentials(scores: &mut [f32], mask: Option<&[f32]>, scale: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if crate::activation::avx512::available() {
        return crate::activation::avx512::exponentials(scores, mask, scale);
    }
    dispatch(Weights { scores, mask, scale })
}

struct Weights<'a> {
    scores: &'a mut [f32],
    mask: Option<&'a [f32]>,
    scale: f32,
}

impl SimdOp for Weights<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        let Self { scores, mask, scale } = self;
        match mask {
            Some(mask) => {
                for (s, m) in scores.iter_mut().zip(mask) {
                    *s = *s * scale + m;
                }
            }
            None => {
                for s in scores.iter_mut() {
                    *s *= scale;
                }
            }
        }
        // Sixteen partial maxima, so that the loop vectorises.
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let mut tops = [f32::NEG_INFINITY; 16];
        let (blocks, rest) = scores.as_chunks::<16>();
        for block in blocks {
            for (t, &s) in tops.iter_mut().zip(block) {
                *t = larger(*t, s);
            }
        }
        let top = tops.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger);
        let mut sums = [0f32; 16];
        let (blocks, rest) = scores.as_chunks_mut::<16>();
        for block in blocks {
            for (s, sum) in block.iter_mut().zip(&mut sums) {
                *s = exp::<FMA>(*s - top);
                *sum += *s;
            }
        }
        let mut sum: f32 = sums.iter().sum();
        for s in rest {
            *s = exp::<FMA>(*s - top);
            sum += *s;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_agree_with_the_formula_in_f64() {
        for (size, rows) in [(1usize, 3usize), (7, 5), (16, 2), (100, 300), (1000, 3)] {
            let x: Vec<f32> = (0..size * rows).map(|i| (i * 37 % 211) as f32 / 7.0 - 90.0).collect();
            let y = softmax(&x, [rows, size, 1]);
            for (x, y) in x.chunks_exact(size).zip(y.chunks_exact(size)) {
                let top = x.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = x.iter().map(|&v| f64::from(v - top).exp()).sum();
                for (&x, &y) in x.iter().zip(y) {
                    let want = f64::from(x - top).exp() / sum;
                    assert!((f64::from(y) - want).abs() <= 1e-6 * want + 1e-37, "{y} != {want}");
                }
            }
        }
        assert!(softmax(&[], [3, 0, 1]).is_empty());
    }

    #[test]
    fn along_an_axis_is_softmax_of_the_rows_across() {
        for [outer, size, inner] in [[1usize, 3usize, 5usize], [2, 64, 700], [3, 1, 4], [2, 7, 1], [0, 2, 2]] {
            let x: Vec<f32> = (0..outer * size * inner).map(|i| (i * 37 % 211) as f32 / 7.0 - 15.0).collect();
            let y = softmax(&x, [outer, size, inner]);
            assert_eq!(y.len(), x.len());
            for column in 0..outer * inner {
                let at = |i: usize| (column / inner * size + i) * inner + column % inner;
                let row: Vec<f32> = (0..size).map(|i| x[at(i)]).collect();
                let row = softmax(&row, [1, size, 1]);
                for (i, want) in row.into_iter().enumerate() {
                    assert!((y[at(i)] - want).abs() <= 1e-6 * want, "{} != {want}", y[at(i)]);
                }
            }
        }
    }

    #[test]
    fn what_has_no_limit_is_not_a_number() {
        for odd in [f32::NAN, f32::INFINITY] {
            assert!(softmax(&[0.0, odd, 1.0], [1, 3, 1])[1].is_nan());
        }
        assert_eq!(softmax(&[f32::NEG_INFINITY, 0.0], [1, 2, 1]), [0.0, 1.0]);
        assert!(softmax(&[f32::NEG_INFINITY; 2], [1, 2, 1])[0].is_nan());
    }
}
