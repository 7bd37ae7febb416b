//! Branch-free exp, log, tanh, … for auto-vectorised loops.
//!
//! `FMA` is true if the CPU fuses multiply and add; otherwise `a · b + c` rounds twice. Error bounds hold for both.
//! Tests compare each function with f64 over all magnitudes.

#![allow(clippy::excessive_precision, reason = "coefficients as computed or published")]

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

mod power;
#[cfg(test)]
mod tests;
mod trigonometric;

pub use power::pow;
pub use trigonometric::{MAX_REDUCED, cos, sin, tan};

/// `a · b + c`.
#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// A polynomial, highest power first.
#[inline(always)]
fn polynomial<const FMA: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut p = coefficients[0];
    for &c in &coefficients[1..] {
        p = fma::<FMA>(p, x, c);
    }
    p
}

/// The integer n nearest to x / ln 2, and `e^r − 1` for the remainder r, at most ln 2 / 2 in magnitude. Valid for x up
/// to a few hundred.
///
/// The polynomial and the split of ln 2 are those of Cephes' `expf`.
#[inline(always)]
fn exp_parts<const FMA: bool>(x: f32) -> (i32, f32) {
    // Adding and subtracting 1.5 · 2²³ rounds to the nearest integer, which is in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let shifted = fma::<FMA>(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -0.693_359_375, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let p = polynomial::<FMA, 6>(
        r,
        [1.987_569_15e-4, 1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 5.000_000_1e-1],
    );
    ((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32), fma::<FMA>(p, r * r, r))
}

/// `2^n · (1 + below)`, including subnormal and infinite results.
#[inline(always)]
fn scaled(n: i32, below: f32, vanishes: bool) -> f32 {
    // 2^128 and 2^−149 are out of range, so the power is the product of two factors with half the exponent each.
    let both = n.wrapping_add(2 * 127);
    let half = both >> 1;
    // Zero times zero, since a product that underflows would be slow.
    let rest = if vanishes { 0 } else { both.wrapping_sub(half) << 23 };
    (below + 1.0) * f32::from_bits((half << 23) as u32) * f32::from_bits(rest as u32)
}

/// `e^x` to within 1.5 ulp; 0 below −104.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let (n, below) = exp_parts::<FMA>(x.clamp(-104.0, 89.0));
    scaled(n, below, x < -104.0)
}

/// `2^x` to within 1.5 ulp; 0 below −150.
#[inline(always)]
pub fn exp2<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let near = x.clamp(-150.0, 129.0);
    let shifted = near + ROUND;
    let r = near - (shifted - ROUND);
    // Minimax polynomial of 2^r.
    let p = polynomial::<FMA, 6>(
        r,
        [1.534_578_9e-4, 1.339_995_75e-3, 9.618_489_2e-3, 5.550_328_7e-2, 2.402_264_7e-1, 6.931_472e-1],
    );
    scaled((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32), p * r, x < -150.0)
}

/// `e^x − 1` for x ≤ 0 to within 2 ulp.
#[inline(always)]
pub fn exp_m1<const FMA: bool>(x: f32) -> f32 {
    // NaN propagates.
    let near = if x < -30.0 { -30.0 } else { x };
    let (n, below) = exp_parts::<FMA>(near);
    let scale = f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let y = fma::<FMA>(below, scale, scale - 1.0);
    // Keeps the sign of zero.
    if x == 0.0 { x } else { y }
}

/// `ln x` to within 1 ulp; NaN below zero.
///
/// The exponent times ln 2 plus the polynomial of Cephes' `logf` on √½ to √2.
#[inline(always)]
pub fn ln<const FMA: bool>(x: f32) -> f32 {
    let denormal = x < f32::MIN_POSITIVE;
    let bits = if denormal { x * 8_388_608.0 } else { x }.to_bits() as i32;
    let e = bits.wrapping_sub(FRAC_1_SQRT_2.to_bits() as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(e << 23) as u32) - 1.0;
    let e = e as f32 - if denormal { 23.0 } else { 0.0 };
    let p = polynomial::<FMA, 9>(
        m,
        [
            7.037_683_63e-2,
            -1.151_461_03e-1,
            1.167_699_87e-1,
            -1.242_014_08e-1,
            1.424_932_28e-1,
            -1.666_805_77e-1,
            2.000_071_48e-1,
            -2.499_999_4e-1,
            3.333_333_12e-1,
        ],
    );
    let square = m * m;
    let y = fma::<FMA>(e, -2.121_944_4e-4, p * square * m);
    let y = fma::<FMA>(square, -0.5, y);
    let y = fma::<FMA>(e, 0.693_359_375, m + y);
    // Infinity and NaN propagate.
    let y = if x < f32::INFINITY { y } else { x };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 { f32::NAN } else { y }
}

/// `ln(1 + x)` for x from 0 to 1, to within 3 ulp.
#[inline(always)]
fn ln_1p<const FMA: bool>(x: f32) -> f32 {
    let sum = 1.0 + x;
    // Correct for the rounding error of the sum.
    ln::<FMA>(sum) + (x - (sum - 1.0)) / sum
}

/// `ln(1 + e^x)` to within 4 ulp, without overflow.
#[inline(always)]
pub fn softplus<const FMA: bool>(x: f32) -> f32 {
    let above = if x < 0.0 { 0.0 } else { x };
    above + ln_1p::<FMA>(exp::<FMA>(-x.abs()))
}

/// `1 / (1 + e^−x)` to within 3 ulp; 0 below −88.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `tanh x` to within 3 ulp.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let e = exp_m1::<FMA>(-2.0 * x.abs());
    (-e / (e + 2.0)).copysign(x)
}

/// The complementary error function of z ≥ 0 times `factor`, with relative error 1.2e-7 apart from the rounding of z².
///
/// The Chebyshev fit `erfcc` of Numerical Recipes.
#[inline(always)]
fn erfc<const FMA: bool>(z: f32) -> f32 {
    let t = 1.0 / fma::<FMA>(z, 0.5, 1.0);
    let p = polynomial::<FMA, 10>(
        t,
        [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_87,
            -1.135_203_98,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_68,
            -1.265_512_23,
        ],
    );
    t * exp::<FMA>(fma::<FMA>(z, -z, p))
}

/// The error function to within 3 ulp.
#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    let z = x.abs();
    // Minimax polynomial of erf(x) / x in x² up to 1.
    let near = x * polynomial::<FMA, 7>(
        x * x,
        [
            7.853_861_18e-5,
            -8.010_193_57e-4,
            5.188_327_68e-3,
            -2.685_381_19e-2,
            1.128_358_51e-1,
            -3.761_262_58e-1,
            std::f32::consts::FRAC_2_SQRT_PI,
        ],
    );
    // Beyond 10 it is 1, but infinity times zero would be NaN.
    let far = (1.0 - erfc::<FMA>(if z > 10.0 { 10.0 } else { z })).copysign(x);
    if z < 1.0 { near } else { far }
}

/// `x / (1 + e^−x)`.
#[inline(always)]
pub fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

/// `x · Φ(x)` with the normal distribution Φ, via the complementary error function, so that the tails are as accurate
/// as the rest apart from the rounding of x².
#[inline(always)]
pub fn gelu<const FMA: bool>(x: f32) -> f32 {
    // Beyond ±40 the tail is zero, but its product with infinity is NaN.
    let near = x.clamp(-40.0, 40.0);
    let low = 0.5 * near * erfc::<FMA>(near.abs() * FRAC_1_SQRT_2);
    if x >= 0.0 { x - low } else { low }
}

/// `½ x · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
#[inline(always)]
pub fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    // 1 + tanh u = 2 / (1 + e^−2u), without the cancellation for negative u.
    const TWICE: f32 = 1.595_769_12;
    x / (1.0 + exp::<FMA>(-TWICE * fma::<FMA>(0.044_715 * x * x, x, x)))
}
