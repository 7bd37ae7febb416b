//! Activations without branches, so that loops over them run in registers.

use std::marker::PhantomData;

use crate::parallel::rows_mut;
use crate::vectorized::{Work, vectorized};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

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

/// `x · Φ(x)` with the normal distribution Φ.
///
/// Φ by the complementary error function, which a Chebyshev fit gives to 1.2e-7 of its value everywhere (`erfcc` of
/// Numerical Recipes), so that the tails are as exact as the rest.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let half = 0.5 * t * exp(p - z * z);
    // Without a product of infinity and zero at −∞.
    let low = if half == 0.0 { 0.0 } else { x * half };
    if x >= 0.0 {
        x * (1.0 - half)
    } else if x.is_nan() {
        x
    } else {
        low
    }
}

/// What follows a product, on each of its results.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// No less than `low` and no more than `high`; NaN stays.
    Clamp {
        /// The least result.
        low: f32,
        /// The greatest.
        high: f32,
    },
    /// [`gelu`].
    Gelu,
    /// [`silu`].
    Silu,
}

impl Default for Activation {
    /// Nothing is done.
    fn default() -> Self {
        Self::Clamp { low: f32::NEG_INFINITY, high: f32::INFINITY }
    }
}

impl Activation {
    /// The bounds of a clamp; infinite ones for others.
    pub(crate) fn bounds(self) -> (f32, f32) {
        match self {
            Self::Clamp { low, high } => (low, high),
            Self::Gelu | Self::Silu => (f32::NEG_INFINITY, f32::INFINITY),
        }
    }

    /// Whether its bounds say all about it.
    pub(crate) fn is_bounds(self) -> bool {
        matches!(self, Self::Clamp { .. })
    }

    /// The function of one element.
    #[inline(always)]
    pub fn at(self, x: f32) -> f32 {
        match self {
            Self::Clamp { low, high } => {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
            }
            Self::Gelu => gelu(x),
            Self::Silu => silu(x),
        }
    }

    /// Applies it to each element, on this thread.
    pub fn apply(self, values: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Gelu if avx512::available() => return avx512::gelu_all(values),
            Self::Silu if avx512::available() => return avx512::silu_all(values),
            _ => {}
        }
        match self {
            Self::Clamp { .. } => values.iter_mut().for_each(|v| *v = self.at(*v)),
            Self::Gelu => vectorized(InPlace::<Gelu> { values, function: PhantomData }),
            Self::Silu => vectorized(InPlace::<Silu> { values, function: PhantomData }),
        }
    }
}

/// A function of each element, in place.
struct InPlace<'a, F> {
    values: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Function> Work for InPlace<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for v in self.values {
            *v = F::at(*v, 0.0);
        }
    }
}

/// A function of one or two elements that loops take in whole.
trait Function {
    fn at(x: f32, y: f32) -> f32;
}

struct Gelu;
struct Silu;
struct SiluTimes;

impl Function for Gelu {
    #[inline(always)]
    fn at(x: f32, _: f32) -> f32 {
        gelu(x)
    }
}

impl Function for Silu {
    #[inline(always)]
    fn at(x: f32, _: f32) -> f32 {
        silu(x)
    }
}

impl Function for SiluTimes {
    #[inline(always)]
    fn at(x: f32, y: f32) -> f32 {
        silu(x) * y
    }
}

struct All<'a, F> {
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Function> Work for All<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (o, (&x, &y)) in self.out.iter_mut().zip(self.x.iter().zip(self.y)) {
            *o = F::at(x, y);
        }
    }
}

fn all<F: Function>(x: &[f32], y: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths");
    rows_mut(out, 1, |first, out| {
        let range = first..first + out.len();
        vectorized(All::<F> { x: &x[range.clone()], y: &y[range], out, function: PhantomData });
    });
}

/// [`gelu`] of each element.
///
/// # Panics
/// When the lengths differ.
pub fn gelu_all(x: &[f32], out: &mut [f32]) {
    all::<Gelu>(x, x, out);
}

/// [`silu`] of each gate, times its element.
///
/// # Panics
/// When the lengths differ.
pub fn silu_times(gates: &[f32], x: &[f32], out: &mut [f32]) {
    all::<SiluTimes>(gates, x, out);
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

    /// Φ(x) in f64: the series `½ + φ(x)·Σ x^(2k+1) / (1·3·5·…)`, and in the tail the continued fraction.
    fn distribution(x: f64) -> f64 {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 4.0 {
            let (mut term, mut sum) = (x, x);
            for k in 1..200 {
                term *= x * x / f64::from(2 * k + 1);
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let fraction = (1..200).rev().fold(x.abs(), |f, k| x.abs() + f64::from(k) / f);
        let tail = density / fraction;
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    #[test]
    fn gelu_agrees_with_the_series_and_the_fraction() {
        for i in -1200..=1200 {
            let x = i as f32 / 100.0;
            let (got, want) = (f64::from(gelu(x)), f64::from(x) * distribution(f64::from(x)));
            // z² is rounded to f32 before the exponential.
            assert!((got - want).abs() <= 1e-5 * want.abs() + 1e-9, "{x}: {got} != {want}");
        }
        assert_eq!((gelu(0.0), gelu(f32::NEG_INFINITY), gelu(f32::INFINITY)), (0.0, 0.0, f32::INFINITY));
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn silu_has_its_limits() {
        assert_eq!((silu(0.0), silu(-200.0), silu(200.0)), (0.0, 0.0, 200.0));
        assert!((f64::from(silu(1.5)) - 1.5 / (1.0 + (-1.5f64).exp())).abs() < 1e-6);
        assert!(silu(f32::NAN).is_nan());
    }

    #[test]
    fn loops_do_what_the_functions_do() {
        let x: Vec<f32> = (0..(1 << 14) + 5).map(|i| (i % 401) as f32 / 25.0 - 8.0).collect();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        let mut out = vec![f32::NAN; x.len()];
        gelu_all(&x, &mut out);
        assert!(out.iter().zip(&x).all(|(&o, &x)| o == gelu(x)));
        silu_times(&x, &y, &mut out);
        assert!(out.iter().zip(x.iter().zip(&y)).all(|(&o, (&x, &y))| o == silu(x) * y));
    }
}
