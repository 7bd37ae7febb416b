//! Sine, cosine and tangent: range reduction by π/2 (in f64 without FMA), then polynomials.

use super::{fma, polynomial};

/// Maximum magnitude for which the reduction is exact; beyond it, use the functions of the standard library.
pub const MAX_REDUCED: f32 = 1e5;

/// The integer n nearest to x / (π/2), and x − n · π/2; for x up to [`MAX_REDUCED`].
#[inline(always)]
fn reduced<const FMA: bool>(x: f32) -> (i32, f32) {
    // Adding and subtracting 1.5 · 2²³ (in f64, 2⁵²) rounds to the nearest integer, which is in the low bits of the
    // sum.
    if FMA {
        const ROUND: f32 = 12_582_912.0;
        let shifted = x.mul_add(std::f32::consts::FRAC_2_PI, ROUND);
        let n = shifted - ROUND;
        // π/2 in three parts. The first difference is exact: a multiple of 2⁻²³ below 1.
        let r = n.mul_add(-1.570_796_37, x);
        let r = n.mul_add(4.371_139e-8, r);
        return (shifted.to_bits() as i32, n.mul_add(1.715_124_5e-15, r));
    }
    // π/2 in two parts: the first has 33 bits, so its multiples are exact.
    const HIGH: f64 = 1.570_796_326_734_125_6;
    const LOW: f64 = 6.077_100_506_506_192e-11;
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = f64::from(x);
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND;
    let n = shifted - ROUND;
    (shifted.to_bits() as i32, ((x - n * HIGH) - n * LOW) as f32)
}

/// Sine and cosine of r, at most π/4 in magnitude; minimax in r².
#[inline(always)]
fn both<const FMA: bool>(r: f32) -> (f32, f32) {
    let square = r * r;
    let sine = polynomial::<FMA, 3>(square, [-1.958_710_75e-4, 8.332_743_82e-3, -1.666_666_46e-1]);
    let cosine = polynomial::<FMA, 3>(square, [2.454_735_5e-5, -1.388_829_98e-3, 4.166_666_46e-2]);
    let cosine = fma::<FMA>(cosine * square, square, fma::<FMA>(square, -0.5, 1.0));
    (fma::<FMA>(sine * square, r, r), cosine)
}

/// Sine of r + n · π/2.
#[inline(always)]
fn turned<const FMA: bool>(n: i32, r: f32) -> f32 {
    let (sine, cosine) = both::<FMA>(r);
    let y = if n & 1 == 0 { sine } else { cosine };
    f32::from_bits(y.to_bits() ^ ((n & 2) as u32) << 30)
}

/// `sin x` to within 2 ulp, for x up to [`MAX_REDUCED`].
#[inline(always)]
pub fn sin<const FMA: bool>(x: f32) -> f32 {
    let (n, r) = reduced::<FMA>(x);
    let y = turned::<FMA>(n, r);
    // Keeps the sign of zero.
    if x == 0.0 { x } else { y }
}

/// `cos x` to within 2 ulp, for x up to [`MAX_REDUCED`].
#[inline(always)]
pub fn cos<const FMA: bool>(x: f32) -> f32 {
    let (n, r) = reduced::<FMA>(x);
    turned::<FMA>(n.wrapping_add(1), r)
}

/// `tan x` to within 4 ulp, for x up to [`MAX_REDUCED`].
#[inline(always)]
pub fn tan<const FMA: bool>(x: f32) -> f32 {
    let (n, r) = reduced::<FMA>(x);
    let (sine, cosine) = both::<FMA>(r);
    let y = if n & 1 == 0 { sine / cosine } else { -cosine / sine };
    if x == 0.0 { x } else { y }
}
