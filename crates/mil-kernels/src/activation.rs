//! Activations without branches, so that loops over them run in registers.

/// `e^x` to within 3 units in the last place; 0 below −87.3 and infinite above 88.7.
///
/// 2^n times a polynomial on ±ln 2 / 2 (the minimax coefficients of Cephes' `expf`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 · 2²³ rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.7);
    let n = clamped * std::f32::consts::LOG2_E + ROUND - ROUND;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // n lies between −126 and 128; 2^128 does not fit, so the last factor of two is separate.
    let half = ((n as i32) >> 1, (n as i32) - ((n as i32) >> 1));
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let y = y * power(half.0) * power(half.1);
    let y = if x > 88.7 { f32::INFINITY } else { y };
    let y = if x < -87.3 { 0.0 } else { y };
    if x.is_nan() { x } else { y }
}

/// `x / (1 + e^−x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_agrees_with_the_standard_library_in_f64() {
        for i in -870_000..=886_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got - want).abs() <= 3.6e-7 * want, "{x}: {got} != {want}");
        }
        assert_eq!((exp(0.0), exp(-1e30), exp(1e30)), (1.0, 0.0, f32::INFINITY));
        assert_eq!((exp(f32::NEG_INFINITY), exp(f32::INFINITY)), (0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn silu_has_its_limits() {
        assert_eq!((silu(0.0), silu(-200.0), silu(200.0)), (0.0, 0.0, 200.0));
        assert!((f64::from(silu(1.5)) - 1.5 / (1.0 + (-1.5f64).exp())).abs() < 1e-6);
        assert!(silu(f32::NAN).is_nan());
    }
}
