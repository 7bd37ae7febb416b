//! `pow`: logarithm and exponential in f64, so that the product with the exponent keeps f32 precision.

/// A polynomial, highest power first.
#[inline(always)]
fn polynomial<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    let mut p = coefficients[0];
    for &c in &coefficients[1..] {
        p = p * x + c;
    }
    p
}

/// Binary logarithm of x > 0: the exponent plus, for the mantissa m from √½ to √2, a minimax polynomial of the `artanh`
/// series in (m − 1) / (m + 1).
#[inline(always)]
fn log2(x: f32) -> f64 {
    let bits = f64::from(x).to_bits() as i64;
    let e = bits.wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits() as i64) >> 52;
    let m = f64::from_bits(bits.wrapping_sub(e << 52) as u64);
    let s = (m - 1.0) / (m + 1.0);
    let p = polynomial(
        s * s,
        [
            0.340_748_994_084_440_87,
            0.411_671_745_040_654_7,
            0.577_083_600_343_589_6,
            0.961_796_673_266_218_83,
            2.885_390_081_790_141_9,
        ],
    );
    e as i32 as f64 + p * s
}

/// `2^x`, rounded once.
#[inline(always)]
fn exp2(x: f64) -> f32 {
    // Adding and subtracting 1.5 · 2⁵² rounds to the nearest integer, which is in the low bits of the sum.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = x.clamp(-160.0, 130.0) + ROUND;
    let r = x.clamp(-160.0, 130.0) - (shifted - ROUND);
    let p = polynomial(
        r,
        [
            1.534_578_910_937_877_9e-4,
            1.339_995_758_700_433_6e-3,
            9.618_489_243_708_454e-3,
            5.550_328_711_939_748e-2,
            0.240_226_468_860_902_52,
            0.693_147_205_767_071_4,
            1.000_000_000_555_048,
        ],
    );
    // 2^n for n in the low bits; the others are shifted out.
    (p * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)) as f32
}

/// `x^y` to within 1 ulp, with the special cases of IEEE 754's `pow`.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let size = x.abs();
    // Finite stand-ins for the logarithms of 0 and ∞.
    let log = if size == 0.0 { -1e300 } else { log2(size) };
    let log = if size == f32::INFINITY { 1e300 } else { log };
    let power = exp2(f64::from(y) * log);
    let whole = y.floor() == y;
    let odd = whole && (0.5 * y).floor() != 0.5 * y;
    let power = if odd { power.copysign(x) } else { power };
    let power = if !whole && x < 0.0 && size < f32::INFINITY { f32::NAN } else { power };
    // Powers of 1, and of −1 to ±∞, are 1.
    let power = if x == 1.0 || (x == -1.0 && y.abs() == f32::INFINITY) || y == 0.0 { 1.0 } else { power };
    if x.is_nan() && y != 0.0 { x } else { power }
}
