//! Softmax of rows.

use crate::activation::exp;
use crate::parallel::rows_mut;
use crate::vectorized::{Work, vectorized};

/// `e^x / Σ e^x` for each row of `size` elements, in place.
///
/// # Panics
/// When `size` does not divide the length.
pub fn softmax(x: &mut [f32], size: usize) {
    if x.is_empty() {
        return;
    }
    assert!(size > 0 && x.len().is_multiple_of(size), "row size");
    rows_mut(x, size, |_, rows| {
        for row in rows.chunks_exact_mut(size) {
            let sum = exponentials(row, None, 1.0);
            row.iter_mut().for_each(|v| *v /= sum);
        }
    });
}

/// Turns scores into `e^(score · scale + mask − top)` with the largest exponent as `top`; returns their sum.
pub(crate) fn exponentials(scores: &mut [f32], mask: Option<&[f32]>, scale: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if crate::activation::avx512::available() {
        return crate::activation::avx512::exponentials(scores, mask, scale);
    }
    vectorized(Weights { scores, mask, scale })
}

struct Weights<'a> {
    scores: &'a mut [f32],
    mask: Option<&'a [f32]>,
    scale: f32,
}

impl Work for Weights<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
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
        // In sixteen parts, so that they run in registers.
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
                *s = exp(*s - top);
                *sum += *s;
            }
        }
        let mut sum: f32 = sums.iter().sum();
        for s in rest {
            *s = exp(*s - top);
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
            let mut y = x.clone();
            softmax(&mut y, size);
            for (x, y) in x.chunks_exact(size).zip(y.chunks_exact(size)) {
                let top = x.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = x.iter().map(|&v| f64::from(v - top).exp()).sum();
                for (&x, &y) in x.iter().zip(y) {
                    let want = f64::from(x - top).exp() / sum;
                    assert!((f64::from(y) - want).abs() <= 1e-6 * want + 1e-37, "{y} != {want}");
                }
            }
        }
        softmax(&mut [], 0);
    }

    #[test]
    fn what_has_no_limit_is_not_a_number() {
        for odd in [f32::NAN, f32::INFINITY] {
            let mut row = [0.0, odd, 1.0];
            softmax(&mut row, 3);
            assert!(row[1].is_nan());
        }
        let mut closed = [f32::NEG_INFINITY, 0.0];
        softmax(&mut closed, 2);
        assert_eq!(closed, [0.0, 1.0]);
        let mut all = [f32::NEG_INFINITY; 2];
        softmax(&mut all, 2);
        assert!(all[0].is_nan());
    }
}
