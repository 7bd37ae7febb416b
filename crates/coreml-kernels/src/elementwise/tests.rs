//! Vectorised loops against the scalar functions.

use proptest::prelude::*;

use super::*;
use crate::strided::tests::{at, layouts};

/// True if two results agree up to rounding: fused steps round differently, and so do squares in an exponent.
fn close(got: f32, want: f32) -> bool {
    got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= 1e-5 * want.abs() + 1e-37
}

fn agrees<F: Unary + Copy>(f: F, x: &[f32]) {
    for x in [x, &x[..x.len().min(37)], &[]] {
        let (y, mut z) = (map(x, f), x.to_vec());
        map_in_place(&mut z, f);
        assert!(y.len() == x.len() && y.iter().zip(&z).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan()));
        for (&x, &y) in x.iter().zip(&y) {
            let want = if x.abs() > F::LIMIT { f.beyond(x) } else { f.at::<false>(x) };
            assert!(close(y, want), "{x}: {y} != {want}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn loops_do_what_the_functions_do() {
    let mut x: Vec<f32> = (0..(1 << 14) + 5).map(|i| (i % 401) as f32 / 25.0 - 8.0).collect();
    x.extend([f32::NAN, f32::INFINITY, 1e30, -1e30, -200.0, 1e7, 0.0, -0.0]);
    agrees(|v| v + 1.0, &x);
    agrees(Exp, &x);
    agrees(Exp2, &x);
    agrees(LnOf { epsilon: 1e-3 }, &x);
    agrees(Tanh, &x);
    agrees(Sigmoid, &x);
    agrees(Softplus, &x);
    agrees(Erf, &x);
    agrees(Sin, &x);
    agrees(Cos, &x);
    agrees(Tan, &x);
    agrees(Gelu, &x);
    agrees(GeluTanh, &x);
    agrees(Silu, &x);
    agrees(Swish { factor: 1.702 }, &x);
    agrees(ScaledTanh { alpha: 0.5, beta: 2.0 }, &x);
    agrees(Elu { alpha: 0.3 }, &x);
    let gate = HardSigmoid { slope: 1.0 / 6.0, offset: 0.5 };
    agrees(gate, &x);
    agrees(HardSwish { gate, threshold: None }, &x);
    agrees(HardSwish { gate, threshold: Some(-3.0) }, &x);
}

#[test]
fn hard_swish_counts_what_is_below_its_threshold_as_zero() {
    let f = |threshold| {
        let f = HardSwish { gate: HardSigmoid { slope: 0.25, offset: 0.5 }, threshold };
        move |x| f.at::<false>(x)
    };
    let (plain, cut) = (f(None), f(Some(1.0)));
    assert_eq!([-4.0, -1.0, 0.5, 1.0, 2.0, 8.0].map(&plain), [0.0, -0.25, 0.3125, 0.75, 2.0, 8.0]);
    assert_eq!([-4.0, -1.0, 0.5, 1.0, 2.0, 8.0].map(&cut), [0.0, 0.0, 0.0, 0.75, 2.0, 8.0]);
    assert!(plain(f32::NAN).is_nan() && plain(f32::NEG_INFINITY).is_nan());
    assert!(cut(f32::NAN).is_nan() && cut(f32::NEG_INFINITY) == 0.0);
}

#[test]
fn what_is_below_zero_is_that_of_the_definition() {
    let elu = |x| Elu { alpha: 2.0 }.at::<false>(x);
    assert_eq!((elu(3.5), elu(0.0), elu(f32::INFINITY), elu(f32::NEG_INFINITY)), (3.5, 0.0, f32::INFINITY, -2.0));
    assert!(elu(f32::NAN).is_nan() && elu(-0.0).is_sign_negative());
    assert_eq!(map(&[1e9], Sin), [1e9f32.sin()]);
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn any_layout_gives_what_the_definition_gives((shape, xs, ys) in layouts(), large in 0usize..3) {
        // Some results are large enough for several threads, some rows for several tasks.
        let front = [0, 40, 4001][large];
        let (mut shape, mut xs, mut ys) = (shape, xs, ys);
        if front > 0 {
            shape.insert(0, front);
            xs.insert(0, usize::from(large == 2));
            ys.insert(0, 0);
        }
        let size: usize = shape.iter().product();
        prop_assume!(size < 1 << 18);
        let data: Vec<f32> = (0..size + front).map(|i| i as f32).collect();
        let (x, y) = (Strided { data: &data, strides: &xs }, Strided { data: &data, strides: &ys });
        let out = zip(&shape, x, y, |a, b| a - 2.0 * b);
        prop_assert_eq!(out.len(), size);
        prop_assert!(out.iter().enumerate().all(|(i, &o)| o == at(x, &shape, i) - 2.0 * at(y, &shape, i)));
        let out = zip(&shape, x, y, |a, b| u8::from(a > b));
        prop_assert!(out.iter().enumerate().all(|(i, &o)| (o == 1) == (at(x, &shape, i) > at(y, &shape, i))));
    }
}

#[test]
fn gates_are_functions_of_two() {
    let (x, y) = ([1.0, -2.0, 0.5, f32::NAN], [2.0, 3.0, -1.0, 1.0]);
    let strides: &[usize] = &[1];
    let out = zip(&[4], Strided { data: &x, strides }, Strided { data: &y, strides }, SiluTimes);
    assert!(out.iter().zip(x.iter().zip(&y)).all(|(&o, (&x, &y))| close(o, math::silu::<false>(x) * y)));
}
