//! Rotary position embedding.

use crate::dispatch::{SimdOp, dispatch};
use crate::parallel::rows_mut;

/// `x · cos + concat(−x[size/2 ..], x[.. size/2]) · sin` for each row of `size` elements; row `i` uses row `i %
/// (cos.len() / size)` of the cosines, and likewise of the sines.
///
/// # Panics
/// If the lengths of `x` and `out` differ, `size` is odd, or it does not divide one of the lengths.
pub fn rotary(x: &[f32], cos: &[f32], sin: &[f32], size: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths");
    if x.is_empty() {
        return;
    }
    let whole = |n: usize| n > 0 && n.is_multiple_of(size);
    assert!(size > 0 && size.is_multiple_of(2) && whole(x.len()) && whole(cos.len()) && whole(sin.len()), "row size");
    rows_mut(out, size, |first, out| {
        dispatch(Rows { x: &x[first * size..][..out.len()], cos, sin, size, first, out });
    });
}

struct Rows<'a> {
    x: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    size: usize,
    first: usize,
    out: &'a mut [f32],
}

impl SimdOp for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, cos, sin, size, first, out } = self;
        let half = size / 2;
        let row = |table: &'_ [f32], i: usize| (first + i) % (table.len() / size) * size;
        for (i, (x, out)) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)).enumerate() {
            let (cos_low, cos_high) = cos[row(cos, i)..][..size].split_at(half);
            let (sin_low, sin_high) = sin[row(sin, i)..][..size].split_at(half);
            let (low, high) = x.split_at(half);
            let (out_low, out_high) = out.split_at_mut(half);
            for k in 0..half {
                out_low[k] = low[k] * cos_low[k] - high[k] * sin_low[k];
                out_high[k] = high[k] * cos_high[k] + low[k] * sin_high[k];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_agree_with_the_formula_also_on_several_threads() {
        for (size, rows, period) in [(2, 1, 1), (6, 5, 5), (64, 12, 3), (128, 200, 8)] {
            let x: Vec<f32> = (0..size * rows).map(|i| (i * 31 % 97) as f32 - 48.0).collect();
            let cos: Vec<f32> = (0..size * period).map(|i| (i as f32).cos()).collect();
            let sin: Vec<f32> = (0..size).map(|i| (i as f32).sin()).collect();
            let mut out = vec![f32::NAN; x.len()];
            rotary(&x, &cos, &sin, size, &mut out);
            for (i, &o) in out.iter().enumerate() {
                let (row, k) = (i / size, i % size);
                let turned = if k < size / 2 { -x[i + size / 2] } else { x[i - size / 2] };
                let want = x[i] * cos[row % period * size + k] + turned * sin[k];
                assert!((o - want).abs() < 1e-5, "size {size}, row {row}, {k}: {o} != {want}");
            }
        }
        rotary(&[], &[], &[], 2, &mut []);
    }
}
