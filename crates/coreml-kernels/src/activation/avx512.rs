//! Exponential activations in AVX-512 registers: `scalef` applies the power of two without exponent shifts, polynomials
//! use FMA. Results match the parent module up to the last few bits.

#![allow(clippy::excessive_precision, reason = "coefficients as published")]

use std::arch::x86_64::*;

use crate::isa::Isa;

/// True if kernels may use the instructions.
pub(crate) fn available() -> bool {
    Isa::Avx512.enabled()
}

/// A polynomial, highest power first.
#[inline]
#[target_feature(enable = "avx512f")]
fn polynomial<const N: usize>(x: __m512, coefficients: [f32; N]) -> __m512 {
    let mut p = _mm512_set1_ps(coefficients[0]);
    for c in &coefficients[1..] {
        p = _mm512_fmadd_ps(p, x, _mm512_set1_ps(*c));
    }
    p
}

/// `e^x`: Cephes' polynomial on ±ln 2 / 2, scaled; 0 below −104, infinite above 88.8, NaN for NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    // With a NaN operand, the result is the second operand.
    let x = _mm512_min_ps(_mm512_set1_ps(89.0), _mm512_max_ps(_mm512_set1_ps(-110.0), x));
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        x,
        _mm512_set1_ps(std::f32::consts::LOG2_E),
    ));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
    let p =
        polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0]);
    _mm512_scalef_ps(p, n)
}

/// [`super::gelu`].
#[inline]
#[target_feature(enable = "avx512f")]
fn gelu(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    // Beyond ±40 the tail is zero, but its product with infinity is not.
    let near = _mm512_min_ps(_mm512_set1_ps(40.0), _mm512_max_ps(_mm512_set1_ps(-40.0), x));
    let z = _mm512_mul_ps(_mm512_abs_ps(near), _mm512_set1_ps(std::f32::consts::FRAC_1_SQRT_2));
    let d = _mm512_fmadd_ps(z, _mm512_set1_ps(0.5), one);
    // 14-bit reciprocal, doubled in precision by a Newton step.
    let t = _mm512_rcp14_ps(d);
    let t = _mm512_fmadd_ps(_mm512_fnmadd_ps(t, d, one), t, t);
    let p = polynomial(
        t,
        [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ],
    );
    let tail = _mm512_mul_ps(_mm512_mul_ps(t, _mm512_set1_ps(0.5)), exp(_mm512_fnmadd_ps(z, z, p)));
    let low = _mm512_mul_ps(near, tail);
    _mm512_mask_sub_ps(low, _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_setzero_ps()), x, low)
}

/// [`super::silu`].
#[inline]
#[target_feature(enable = "avx512f")]
fn silu(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    _mm512_div_ps(x, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))))
}

/// [`super::sigmoid`].
#[inline]
#[target_feature(enable = "avx512f")]
fn sigmoid(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))))
}

/// Mask of the lanes from element `at` to the end.
fn lanes(len: usize, at: usize) -> __mmask16 {
    if len - at >= 16 { !0 } else { (1 << (len - at)) - 1 }
}

/// Applies `f` to each element in registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn each(values: &mut [f32], f: impl Fn(__m512) -> __m512) {
    for at in (0..values.len()).step_by(16) {
        let (mask, data) = (lanes(values.len(), at), values[at..].as_mut_ptr());
        // SAFETY: the mask selects the elements from `at` to the end.
        unsafe { _mm512_mask_storeu_ps(data, mask, f(_mm512_maskz_loadu_ps(mask, data))) }
    }
}

#[target_feature(enable = "avx512f")]
fn gelu_loop(values: &mut [f32]) {
    each(values, |x| gelu(x));
}

#[target_feature(enable = "avx512f")]
fn silu_loop(values: &mut [f32]) {
    each(values, |x| silu(x));
}

#[target_feature(enable = "avx512f")]
fn sigmoid_loop(values: &mut [f32]) {
    each(values, |x| sigmoid(x));
}

#[target_feature(enable = "avx512f")]
fn exponentials_loop(scores: &mut [f32], mask: Option<&[f32]>, scale: f32) -> f32 {
    let factor = _mm512_set1_ps(scale);
    let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
    for at in (0..scores.len()).step_by(16) {
        let (part, data) = (lanes(scores.len(), at), scores[at..].as_mut_ptr());
        // SAFETY: the mask selects elements from `at` to the end, also of the attention mask (asserted by the caller).
        unsafe {
            let scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(part, data), factor);
            let sum = match mask {
                Some(mask) => _mm512_add_ps(scaled, _mm512_maskz_loadu_ps(part, mask[at..].as_ptr())),
                None => scaled,
            };
            _mm512_mask_storeu_ps(data, part, sum);
            // Skips NaN: with a NaN operand, the result is the second operand.
            top = _mm512_mask_max_ps(top, part, sum, top);
        }
    }
    let top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    let mut total = _mm512_setzero_ps();
    for at in (0..scores.len()).step_by(16) {
        let (part, data) = (lanes(scores.len(), at), scores[at..].as_mut_ptr());
        // SAFETY: as above.
        unsafe {
            let value = exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(part, data), top));
            _mm512_mask_storeu_ps(data, part, value);
            total = _mm512_mask_add_ps(total, part, total, value);
        }
    }
    _mm512_reduce_add_ps(total)
}

/// [`super::gelu`] of each element, in place.
///
/// # Panics
/// If the instructions are not [`available`].
pub(crate) fn gelu_all(values: &mut [f32]) {
    assert!(available());
    // SAFETY: asserted above.
    unsafe { gelu_loop(values) }
}

/// [`super::silu`] of each element, in place.
///
/// # Panics
/// If the instructions are not [`available`].
pub(crate) fn silu_all(values: &mut [f32]) {
    assert!(available());
    // SAFETY: asserted above.
    unsafe { silu_loop(values) }
}

/// [`super::sigmoid`] of each element, in place.
///
/// # Panics
/// If the instructions are not [`available`].
pub(crate) fn sigmoid_all(values: &mut [f32]) {
    assert!(available());
    // SAFETY: asserted above.
    unsafe { sigmoid_loop(values) }
}

/// Computes `e^(score · scale + mask − top)` in place with the largest exponent as `top`; returns the sum.
///
/// # Panics
/// If the instructions are not [`available`] or the mask is shorter than the scores.
pub(crate) fn exponentials(scores: &mut [f32], mask: Option<&[f32]>, scale: f32) -> f32 {
    assert!(available() && mask.is_none_or(|m| m.len() >= scores.len()), "length of the mask");
    // SAFETY: asserted above.
    unsafe { exponentials_loop(scores, mask, scale) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math;

    #[test]
    fn the_functions_agree_with_those_of_one_element() {
        if !available() {
            return;
        }
        let close = |got: f32, want: f32| {
            got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= 1e-6 * want.abs() + 1e-37
        };
        let mut x: Vec<f32> = (-12_000..12_000).map(|i| i as f32 / 1000.0).collect();
        x.extend([f32::INFINITY, f32::NAN, 1e30, -1e30, -200.0]);
        let mut y = x.clone();
        silu_all(&mut y);
        assert!(x.iter().zip(&y).all(|(&x, &y)| close(y, math::silu::<false>(x))));
        x.push(f32::NEG_INFINITY);
        let mut y = x.clone();
        sigmoid_all(&mut y);
        assert!(x.iter().zip(&y).all(|(&x, &y)| close(y, math::sigmoid::<false>(x))));
        let mut y = x.clone();
        gelu_all(&mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let want = math::gelu::<false>(x);
            // Both round z² before the exponential; this one rounds once less.
            assert!(close(y, want) || (y - want).abs() <= 1e-5 * want.abs() + 1e-9, "{x}: {y} != {want}");
        }
        // A single-element sum is the exponential itself, relative to the largest.
        for i in -1100..0 {
            let exponent = i as f32 / 10.0;
            let mut pair = [0.0, exponent];
            let sum = exponentials(&mut pair, None, 1.0);
            let want = f64::from(exponent).exp();
            assert!((f64::from(pair[1]) - want).abs() <= 3e-7 * want + 1e-44, "{exponent}: {} != {want}", pair[1]);
            assert_eq!(sum, pair[0] + pair[1]);
        }
    }
}
