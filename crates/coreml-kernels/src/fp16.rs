//! Conversion between `f32` and `f16`, on several threads where worthwhile.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::parallel::rows_mut;

/// Block size of rounding in elements: 4 KB on the stack.
const PART: usize = 2048;

/// Widens: `out[i] = x[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn widen(x: &[f16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths");
    rows_mut(out, 1, |first, out| x[first..][..out.len()].convert_to_f32_slice(out));
}

/// Narrows: `out[i] = x[i]`, rounded to nearest, ties to even.
///
/// # Panics
/// If the lengths differ.
pub fn narrow(x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len(), "lengths");
    rows_mut(out, 1, |first, out| {
        let n = out.len();
        out.convert_from_f32_slice(&x[first..][..n]);
    });
}

/// Rounds each element to the nearest `f16` value.
///
/// # Panics
/// If the lengths differ.
pub fn round(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths");
    rows_mut(out, 1, |first, out| {
        let mut part = [f16::ZERO; PART];
        for (i, out) in out.chunks_mut(PART).enumerate() {
            let part = &mut part[..out.len()];
            part.convert_from_f32_slice(&x[first + i * PART..][..out.len()]);
            part.convert_to_f32_slice(out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn conversions_agree_with_those_of_single_numbers() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut wide = vec![0f32; all.len()];
        widen(&all, &mut wide);
        assert!(wide.iter().zip(&all).all(|(w, h)| w.to_bits() == h.to_f32().to_bits() || w.is_nan() && h.is_nan()));
        // Between adjacent values, on them and beyond all of them.
        let near = wide.iter().flat_map(|&w| [w, w * 1.000_1, w * (1.0 + f32::powi(2.0, -11)), w * 3.0, w * 1e-9]);
        let x: Vec<f32> = near.collect();
        let (mut halves, mut rounded) = (vec![f16::ZERO; x.len()], vec![0f32; x.len()]);
        narrow(&x, &mut halves);
        round(&x, &mut rounded);
        for (i, &x) in x.iter().enumerate() {
            let want = f16::from_f32(x);
            let same = |got: f16| got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(same(halves[i]) && same(f16::from_f32(rounded[i])), "{x}: {} {}", halves[i], rounded[i]);
        }
    }
}
