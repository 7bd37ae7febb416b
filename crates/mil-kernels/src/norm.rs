//! Normalization of rows: RMS norm and layer norm without their gains and offsets.
//!
//! Sums are kept in sixteen parts of f32, so that they run in registers and lose no more than pairwise sums do.

use rayon::prelude::*;

/// Elements below which one thread does it all.
const SPLIT: usize = 1 << 15;

/// The sum of `f` of every element.
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

fn rows(x: &[f32], size: usize, out: &mut [f32], row: impl Fn(&[f32], &mut [f32]) + Sync) {
    assert_eq!(x.len(), out.len(), "lengths");
    let size = size.max(1);
    if x.len() < SPLIT {
        x.chunks_exact(size).zip(out.chunks_exact_mut(size)).for_each(|(x, out)| row(x, out));
    } else {
        let least = (SPLIT / 4).div_ceil(size);
        x.par_chunks_exact(size)
            .zip(out.par_chunks_exact_mut(size))
            .with_min_len(least)
            .for_each(|(x, out)| row(x, out));
    }
}

/// `x / √(mean(x²) + ε)` for each row of `size` elements.
///
/// # Panics
/// When the lengths differ.
pub fn rms_norm(x: &[f32], size: usize, epsilon: f32, out: &mut [f32]) {
    rows(x, size, out, |x, out| {
        let scale = 1.0 / (sum(x, |v| v * v) / size as f32 + epsilon).sqrt();
        out.iter_mut().zip(x).for_each(|(o, &v)| *o = v * scale);
    });
}

/// `(x − mean) / √(variance + ε)` for each row of `size` elements.
///
/// # Panics
/// When the lengths differ.
pub fn layer_norm(x: &[f32], size: usize, epsilon: f32, out: &mut [f32]) {
    rows(x, size, out, |x, out| {
        let mean = sum(x, |v| v) / size as f32;
        let variance = sum(x, |v| (v - mean) * (v - mean)) / size as f32;
        let scale = 1.0 / (variance + epsilon).sqrt();
        out.iter_mut().zip(x).for_each(|(o, &v)| *o = (v - mean) * scale);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_agree_with_the_formulas_in_f64() {
        for (size, count) in [(1usize, 3usize), (5, 4), (16, 2), (100, 3), (1024, 40)] {
            // A mean far from zero: what a sum of squares minus the squared mean would lose.
            let x: Vec<f32> = (0..size * count).map(|i| 50.0 + ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
            let (mut rms, mut layer) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            rms_norm(&x, size, 1e-3, &mut rms);
            layer_norm(&x, size, 1e-3, &mut layer);
            for (r, row) in x.chunks_exact(size).enumerate() {
                let n = size as f64;
                let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                let square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
                let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
                for (i, &v) in row.iter().enumerate() {
                    let want =
                        (f64::from(v) / (square + 1e-3).sqrt(), (f64::from(v) - mean) / (variance + 1e-3).sqrt());
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
