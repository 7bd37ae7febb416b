//! Every function against f64, with and without FMA.

use super::*;

/// Error of a result in ulp of the exact value.
fn units(got: f32, want: f64) -> f64 {
    if got.is_nan() || want.is_nan() {
        return if got.is_nan() && want.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let near = want as f32;
    if near.is_infinite() || got.is_infinite() {
        return if near == got { 0.0 } else { f64::INFINITY };
    }
    let exponent = (near.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127;
    (f64::from(got) - want).abs() / 2f64.powi(exponent - 23)
}

/// Numbers of every magnitude and sign, special values, and those nearest to zeros of sine and cosine.
fn numbers() -> impl Iterator<Item = f32> {
    let (step, turns) = if cfg!(miri) { (40_000_003, 10) } else { (4099, 63_000) };
    let special = [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-45, -1e-45];
    let patterns = (0..=u32::MAX).step_by(step).map(f32::from_bits);
    let quarters = (0..turns).map(|n| (f64::from(n) * std::f64::consts::FRAC_PI_2) as f32);
    patterns.chain(special).chain((-8000..8000).map(|i| i as f32 / 64.0)).chain(quarters)
}

#[track_caller]
fn within(bound: f64, of: impl Fn(f32) -> bool, both: [fn(f32) -> f32; 2], exact: impl Fn(f64) -> f64) {
    for f in both {
        let worst = numbers()
            .filter(|&x| of(x))
            .map(|x| (units(f(x), exact(f64::from(x))), x))
            .fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a });
        assert!(worst.0 <= bound, "{} units at {:e}: {:e}", worst.0, worst.1, f(worst.1));
    }
}

/// erf in f64 by the series `2/√π · e^−x² · Σ 2^n x^(2n+1) / (2n+1)!!`, which has no cancellation; 1 beyond 6.
fn erf_exact(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..300 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn exponentials() {
    within(1.5, |_| true, [exp::<false>, exp::<true>], f64::exp);
    within(1.5, |_| true, [exp2::<false>, exp2::<true>], f64::exp2);
    within(2.0, |x| x <= 0.0 || x.is_nan(), [exp_m1::<false>, exp_m1::<true>], f64::exp_m1);
    assert!(exp_m1::<true>(-0.0).is_sign_negative());
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn logarithms() {
    within(1.0, |_| true, [ln::<false>, ln::<true>], f64::ln);
    within(4.0, |_| true, [softplus::<false>, softplus::<true>], |x| x.max(0.0) + (-x.abs()).exp().ln_1p());
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn sigmoids() {
    // Below, e^−x is infinite.
    within(3.0, |x| x >= -88.0 || x.is_nan(), [sigmoid::<false>, sigmoid::<true>], |x| 1.0 / (1.0 + (-x).exp()));
    assert_eq!((sigmoid::<true>(f32::NEG_INFINITY), sigmoid::<true>(-90.0)), (0.0, 0.0));
    within(3.0, |_| true, [tanh::<false>, tanh::<true>], f64::tanh);
    assert!(tanh::<true>(-0.0).is_sign_negative());
    within(3.0, |_| true, [erf::<false>, erf::<true>], erf_exact);
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn turns() {
    let near = |x: f32| !(x.abs() > MAX_REDUCED && x.is_finite());
    within(2.0, near, [sin::<false>, sin::<true>], f64::sin);
    within(2.0, near, [cos::<false>, cos::<true>], f64::cos);
    within(4.0, near, [tan::<false>, tan::<true>], f64::tan);
    assert!(sin::<true>(-0.0).is_sign_negative());
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn powers() {
    let exponents = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.0,
        -1.0,
        1.5,
        2.0,
        3.0,
        -3.0,
        7.0,
        0.1,
        1.0 / 3.0,
        1e-3,
        100.0,
        16_777_215.0,
        1e30,
        -1e30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-45,
    ];
    for y in exponents {
        let worst = numbers()
            .step_by(11)
            .chain([0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN])
            .map(|x| (units(pow(x, y), f64::from(x).powf(f64::from(y))), x))
            .fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a });
        assert!(worst.0 <= 1.0, "{} units at {:e}^{y:e}: {:e}", worst.0, worst.1, pow(worst.1, y));
    }
    assert!(pow(-0.0, 3.0).is_sign_negative() && pow(-0.0, 2.0).is_sign_positive());
    assert_eq!((pow(-0.0, -3.0), pow(f32::NEG_INFINITY, 3.0)), (f32::NEG_INFINITY, f32::NEG_INFINITY));
}

/// Φ(x) in f64 by the series `½ + φ(x)·Σ x^(2k+1) / (1·3·5·…)`, and by the continued fraction in the tail.
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
#[cfg_attr(miri, ignore = "many elements")]
fn gelu_agrees_with_the_series_and_the_fraction() {
    for i in -1200..=1200 {
        let x = i as f32 / 100.0;
        let (got, want) = (f64::from(gelu::<true>(x)), f64::from(x) * distribution(f64::from(x)));
        // z² is rounded to f32 before the exponential.
        assert!((got - want).abs() <= 1e-5 * want.abs() + 1e-9, "{x}: {got} != {want}");
    }
    assert_eq!(
        (gelu::<true>(0.0), gelu::<true>(f32::NEG_INFINITY), gelu::<true>(f32::INFINITY)),
        (0.0, 0.0, f32::INFINITY)
    );
    assert!(gelu::<true>(f32::NAN).is_nan());
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn gelu_by_tanh_is_that_of_its_definition() {
    for i in -1000..=1000 {
        let x = f64::from(i) / 100.0;
        let want = 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        let got = f64::from(gelu_tanh::<true>(x as f32));
        // Errors of the exponent, which grows to hundreds, are relative to the result.
        assert!((got - want).abs() <= 2e-6 * want.abs() + 1e-7, "{x}: {got} != {want}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn silu_has_its_limits() {
    assert_eq!((silu::<true>(0.0), silu::<true>(-200.0), silu::<true>(200.0)), (0.0, 0.0, 200.0));
    within(4.0, |x| (-80.0..=80.0).contains(&x), [silu::<false>, silu::<true>], |x| x / (1.0 + (-x).exp()));
    assert!(silu::<true>(f32::NAN).is_nan());
}
