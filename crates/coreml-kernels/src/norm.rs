//! RMS norm and layer norm of rows, with gain and offset; per-channel scale and shift.
//!
//! Sums use sixteen f32 partial sums, which stay in registers and are as accurate as pairwise summation.

use std::mem::MaybeUninit;

use crate::buffer_pool::alloc_rows_with;
use crate::dispatch::{SimdOp, dispatch};
use crate::parallel::rows_mut;
use crate::sizes;

/// Sum of `f` over all elements.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<16>();
    let mut parts = [0f32; 16];
    for block in blocks {
        for (p, &v) in parts.iter_mut().zip(block) {
            *p += f(v);
        }
    }
    parts.iter().sum::<f32>() + rest.iter().map(|&v| f(v)).sum::<f32>()
}

/// Normalization of rows of `size` elements.
#[derive(Clone, Copy)]
struct Rows<'a> {
    size: usize,
    epsilon: f32,
    /// True if the mean is subtracted first.
    centre: bool,
    /// Factor per element of a row.
    gain: Option<&'a [f32]>,
    /// Offset per element of a row.
    offset: Option<&'a [f32]>,
}

struct Part<'a, 'o> {
    rows: Rows<'a>,
    x: &'a [f32],
    out: &'o mut [f32],
}

impl SimdOp for Part<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Rows { size, epsilon, centre, gain, offset } = self.rows;
        for (x, out) in self.x.chunks_exact(size).zip(self.out.chunks_exact_mut(size)) {
            let mean = if centre { sum(x, |v| v) / size as f32 } else { 0.0 };
            let variance = sum(x, |v| (v - mean) * (v - mean)) / size as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            match (gain, offset) {
                (None, _) => {
                    for (o, &v) in out.iter_mut().zip(x) {
                        *o = (v - mean) * scale;
                    }
                }
                (Some(gain), None) => {
                    for (o, (&v, &g)) in out.iter_mut().zip(x.iter().zip(gain)) {
                        *o = (v - mean) * scale * g;
                    }
                }
                (Some(gain), Some(offset)) => {
                    for (o, ((&v, &g), &b)) in out.iter_mut().zip(x.iter().zip(gain).zip(offset)) {
                        *o = (v - mean) * scale * g + b;
                    }
                }
            }
            if let (None, Some(offset)) = (gain, offset) {
                for (o, &b) in out.iter_mut().zip(offset) {
                    *o += b;
                }
            }
        }
    }
}

fn all(rows: Rows<'_>, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths");
    let size = rows.size.max(1);
    let rows = Rows { size, ..rows };
    assert!(x.len().is_multiple_of(size), "whole rows");
    assert!(rows.gain.is_none_or(|g| g.len() == size), "length of the gain");
    assert!(rows.offset.is_none_or(|b| b.len() == size), "length of the offset");
    rows_mut(out, size, |first, out| {
        let x = &x[first * size..][..out.len()];
        dispatch(Part { rows, x, out });
    });
}

/// Computes `x / √(mean(x²) + ε) · gain` for each row of `size` elements.
///
/// # Panics
/// If lengths do not match or rows are incomplete.
pub fn rms_norm(x: &[f32], size: usize, epsilon: f32, gain: Option<&[f32]>, out: &mut [f32]) {
    all(Rows { size, epsilon, centre: false, gain, offset: None }, x, out);
}

/// Computes `(x − mean) / √(variance + ε) · gain + offset` for each row of `size` elements.
///
/// # Panics
/// If lengths do not match or rows are incomplete.
pub fn layer_norm(x: &[f32], size: usize, epsilon: f32, gain: Option<&[f32]>, offset: Option<&[f32]>, out: &mut [f32]) {
    all(Rows { size, epsilon, centre: true, gain, offset }, x, out);
}

/// `x · scale + shift` with a scale and shift per index of the middle of three extents.
///
/// # Panics
/// If a length does not match the extents.
pub fn affine(x: &[f32], [outer, size, inner]: [usize; 3], scale: &[f32], shift: &[f32]) -> Vec<f32> {
    assert_eq!(Some(x.len()), sizes::checked([outer, size, inner]), "extents");
    assert!(scale.len() == size && shift.len() == size, "lengths of scale and shift");
    // One row per channel, or each of all channels.
    let width = if inner == 1 { size } else { inner }.max(1);
    // SAFETY: the work writes every row of its part.
    unsafe {
        alloc_rows_with(x.len(), width, |first, out| {
            dispatch(Affine { x: &x[first * width..][..out.len()], first, inner, scale, shift, out });
        })
    }
}

/// Some rows of [`affine`].
struct Affine<'a, 'o> {
    x: &'a [f32],
    first: usize,
    inner: usize,
    scale: &'a [f32],
    shift: &'a [f32],
    out: &'o mut [MaybeUninit<f32>],
}

impl SimdOp for Affine<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, first, inner, scale, shift, out } = self;
        if inner == 1 {
            for (x, out) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
                for (o, (&v, (&a, &b))) in out.iter_mut().zip(x.iter().zip(scale.iter().zip(shift))) {
                    o.write(v * a + b);
                }
            }
            return;
        }
        for (i, (x, out)) in x.chunks_exact(inner).zip(out.chunks_exact_mut(inner)).enumerate() {
            let channel = (first + i) % scale.len();
            let (a, b) = (scale[channel], shift[channel]);
            for (o, &v) in out.iter_mut().zip(x) {
                o.write(v * a + b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_scaled_and_moved_wherever_they_lie() {
        for [outer, size, inner] in
            [[2usize, 3usize, 7usize], [5, 64, 1], [1, 40, 1000], [3, 1, 4], [2, 0, 5], [0, 2, 1]]
        {
            let x: Vec<f32> = (0..outer * size * inner).map(|i| (i % 101) as f32 - 50.0).collect();
            let scale: Vec<f32> = (0..size).map(|i| 1.0 + i as f32).collect();
            let shift: Vec<f32> = (0..size).map(|i| 0.5 - i as f32).collect();
            let y = affine(&x, [outer, size, inner], &scale, &shift);
            assert_eq!(y.len(), x.len());
            for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                let channel = i / inner % size;
                assert_eq!(y, x * scale[channel] + shift[channel]);
            }
        }
    }

    #[test]
    fn rows_agree_with_the_formulas_in_f64() {
        for (size, count) in [(1usize, 3usize), (5, 4), (16, 2), (100, 3), (1024, 40)] {
            // A mean far from zero, for which the difference of mean square and squared mean would cancel.
            let x: Vec<f32> = (0..size * count).map(|i| 50.0 + ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
            let (mut rms, mut layer) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            let gain: Vec<f32> = (0..size).map(|i| 1.0 + (i % 3) as f32 / 4.0).collect();
            rms_norm(&x, size, 1e-3, Some(&gain), &mut rms);
            layer_norm(&x, size, 1e-3, None, None, &mut layer);
            let mut moved = [vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]];
            layer_norm(&x, size, 1e-3, Some(&gain), Some(&gain), &mut moved[0]);
            layer_norm(&x, size, 1e-3, None, Some(&gain), &mut moved[1]);
            for (i, &plain) in layer.iter().enumerate() {
                let g = gain[i % size];
                assert_eq!((moved[0][i], moved[1][i]), (plain * g + g, plain + g));
            }
            for (r, row) in x.chunks_exact(size).enumerate() {
                let n = size as f64;
                let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                let square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
                let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
                for (i, &v) in row.iter().enumerate() {
                    let want = (
                        f64::from(v) / (square + 1e-3).sqrt() * f64::from(gain[i]),
                        (f64::from(v) - mean) / (variance + 1e-3).sqrt(),
                    );
                    let got = (f64::from(rms[r * size + i]), f64::from(layer[r * size + i]));
                    assert!(
                        (got.0 - want.0).abs() < 1e-5 && (got.1 - want.1).abs() < 1e-4,
                        "{size}: {got:?} != {want:?}"
                    );
                }
            }
        }
    }
}
