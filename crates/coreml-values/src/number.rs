//! Value-preserving conversion between numeric types.

use std::fmt::Display;

use half::{bf16, f16};

/// A number convertible to other kinds.
pub trait Number: Copy + Display {
    /// The nearest `f32`, ties to even; infinite beyond its range.
    fn single(self) -> f32;
    /// The nearest `f64`.
    fn double(self) -> f64;
    /// The integer value; `None` for fractions, values outside `i64`, infinities and NaN.
    fn whole(self) -> Option<i64>;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            fn single(self) -> f32 {
                self as f32
            }
            fn double(self) -> f64 {
                self as f64
            }
            fn whole(self) -> Option<i64> {
                Some(i64::from(self))
            }
        }
    )*};
}

macro_rules! floats {
    ($($ty:ty: $single:expr, $double:expr;)*) => {$(
        impl Number for $ty {
            fn single(self) -> f32 {
                $single(self)
            }
            fn double(self) -> f64 {
                $double(self)
            }
            fn whole(self) -> Option<i64> {
                // 2^63, the first integer beyond `i64`; −2^63 is its minimum.
                const BEYOND: f64 = 9_223_372_036_854_775_808.0;
                let x: f64 = $double(self);
                (x.trunc() == x && (-BEYOND..BEYOND).contains(&x)).then_some(x as i64)
            }
        }
    )*};
}

integers!(u8, u32, i8, i16, i32, i64);
floats! {
    bf16: bf16::to_f32, bf16::to_f64;
    f16: f16::to_f32, f16::to_f64;
    f32: |x| x, f64::from;
    f64: |x| x as f32, |x| x;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_those_that_i64_has() {
        assert_eq!((-9_223_372_036_854_775_808.0_f64).whole(), Some(i64::MIN));
        assert_eq!((-0.0_f32).whole(), Some(0));
        assert_eq!(f16::from_f32(2048.0).whole(), Some(2048));
        for none in [0.5, 9_223_372_036_854_775_808.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(none.whole(), None, "{none}");
        }
        assert_eq!((u32::MAX.whole(), i64::MIN.whole()), (Some(4_294_967_295), Some(i64::MIN)));
    }
}
