//! Unary and binary functions over whole tensors: loops compiled for the widest vectors and split among threads.

use std::mem::MaybeUninit;

use crate::buffer_pool::{Element, alloc_rows_with};
use crate::dispatch::{SimdOp, dispatch};
use crate::math;
use crate::sizes::size_of_shape;
use crate::strided::{Strided, joined};

/// A function of one element; implemented by closures.
pub trait Unary: Sync {
    /// Maximum magnitude for which [`at`](Self::at) is valid.
    const LIMIT: f32 = f32::INFINITY;

    /// The result, as an expression without branches or non-inlined calls. `FMA` is true if the CPU fuses multiply and
    /// add.
    fn at<const FMA: bool>(&self, x: f32) -> f32;

    /// The result beyond [`LIMIT`](Self::LIMIT).
    fn beyond(&self, x: f32) -> f32 {
        self.at::<false>(x)
    }
}

impl<F: Fn(f32) -> f32 + Sync> Unary for F {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32) -> f32 {
        self(x)
    }
}

/// A function of two elements of a type; implemented by closures.
pub trait Binary<T = f32>: Sync {
    /// Result type.
    type Output: Element;

    /// Same as [`Unary::at`].
    fn at<const FMA: bool>(&self, x: T, y: T) -> Self::Output;
}

impl<T: Element, R: Element, F: Fn(T, T) -> R + Sync> Binary<T> for F {
    type Output = R;

    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T, y: T) -> R {
        self(x, y)
    }
}

/// Unit types for functions of [`math`].
macro_rules! functions {
    ($($name:ident: $function:ident $(, beyond $limit:path: $beyond:path)?;)*) => {$(
        #[doc = concat!("[`math::", stringify!($function), "`].")]
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl Unary for $name {
            $(const LIMIT: f32 = $limit;)?

            #[inline(always)]
            fn at<const FMA: bool>(&self, x: f32) -> f32 {
                math::$function::<FMA>(x)
            }

            $(fn beyond(&self, x: f32) -> f32 {
                $beyond(x)
            })?
        }
    )*};
}

functions! {
    Exp: exp;
    Exp2: exp2;
    Tanh: tanh;
    Sigmoid: sigmoid;
    Softplus: softplus;
    Erf: erf;
    Silu: silu;
    Gelu: gelu;
    GeluTanh: gelu_tanh;
    Sin: sin, beyond math::MAX_REDUCED: f32::sin;
    Cos: cos, beyond math::MAX_REDUCED: f32::cos;
    Tan: tan, beyond math::MAX_REDUCED: f32::tan;
}

/// `ln(x + ε)`.
#[derive(Debug, Clone, Copy)]
pub struct LnOf {
    /// ε.
    pub epsilon: f32,
}

impl Unary for LnOf {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32) -> f32 {
        math::ln::<FMA>(x + self.epsilon)
    }
}

/// `alpha · tanh(beta · x)`.
#[derive(Debug, Clone, Copy)]
pub struct ScaledTanh {
    /// Scale of the result.
    pub alpha: f32,
    /// Scale of the argument.
    pub beta: f32,
}

impl Unary for ScaledTanh {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32) -> f32 {
        self.alpha * math::tanh::<FMA>(self.beta * x)
    }
}

/// `x` for x ≥ 0, `alpha · (e^x − 1)` otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Elu {
    /// Negated limit at −∞.
    pub alpha: f32,
}

impl Unary for Elu {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32) -> f32 {
        // NaN takes the negative branch.
        let below = self.alpha * math::exp_m1::<FMA>(if x > 0.0 { 0.0 } else { x });
        if x >= 0.0 { x } else { below }
    }
}

/// `x / (1 + e^(−factor · x))`.
#[derive(Debug, Clone, Copy)]
pub struct Swish {
    /// Factor in the exponent.
    pub factor: f32,
}

impl Unary for Swish {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32) -> f32 {
        x / (1.0 + math::exp::<FMA>(-self.factor * x))
    }
}

/// `slope · x + offset`, clamped to 0 ..= 1; propagates NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HardSigmoid {
    /// Slope.
    pub slope: f32,
    /// Offset.
    pub offset: f32,
}

impl Unary for HardSigmoid {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32) -> f32 {
        (self.slope * x + self.offset).clamp(0.0, 1.0)
    }
}

/// `w · gate(w)`, where `w` is 0 below a threshold and otherwise `x`, including NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HardSwish {
    /// The second factor.
    pub gate: HardSigmoid,
    /// Smallest element that is kept.
    pub threshold: Option<f32>,
}

impl Unary for HardSwish {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32) -> f32 {
        let w = match self.threshold {
            Some(threshold) => {
                if x < threshold {
                    0.0
                } else {
                    x
                }
            }
            None => x,
        };
        w * self.gate.at::<FMA>(w)
    }
}

/// `silu(x) · y`.
#[derive(Debug, Clone, Copy)]
pub struct SiluTimes;

impl Binary for SiluTimes {
    type Output = f32;

    #[inline(always)]
    fn at<const FMA: bool>(&self, x: f32, y: f32) -> f32 {
        math::silu::<FMA>(x) * y
    }
}

/// Computes `f(x[i])` for each element.
pub fn map(x: &[f32], f: impl Unary) -> Vec<f32> {
    // SAFETY: the work writes every element of its part.
    unsafe {
        alloc_rows_with(x.len(), 1, |first, out| {
            let x = &x[first..][..out.len()];
            dispatch(Each { x, out, f: &f });
        })
    }
}

/// A contiguous part of [`map`].
struct Each<'a, F> {
    x: &'a [f32],
    out: &'a mut [MaybeUninit<f32>],
    f: &'a F,
}

impl<F: Unary> SimdOp for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (o, &x) in self.out.iter_mut().zip(self.x) {
            o.write(self.f.at::<FMA>(x));
        }
        if F::LIMIT < f32::INFINITY {
            for (o, &x) in self.out.iter_mut().zip(self.x) {
                if x.abs() > F::LIMIT {
                    o.write(self.f.beyond(x));
                }
            }
        }
    }
}

/// Computes `x[i] = f(x[i])` for each element, single-threaded.
pub fn map_in_place(x: &mut [f32], f: impl Unary) {
    dispatch(InPlace { x, f });
}

struct InPlace<'a, F> {
    x: &'a mut [f32],
    f: F,
}

impl<F: Unary> SimdOp for InPlace<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for x in self.x.iter_mut() {
            *x = if F::LIMIT < f32::INFINITY && x.abs() > F::LIMIT { self.f.beyond(*x) } else { self.f.at::<FMA>(*x) };
        }
    }
}

/// Computes `f(x[i], y[i])` for every index of the shape, row-major.
///
/// # Panics
/// If an operand does not cover the shape.
pub fn zip<T: Element, F: Binary<T>>(shape: &[usize], x: Strided<'_, T>, y: Strided<'_, T>, f: F) -> Vec<F::Output> {
    let size = size_of_shape(shape);
    if size == 0 {
        return Vec::new();
    }
    assert!(x.fits(shape) && y.fits(shape), "operands cover the shape");
    let dims = joined(shape, x.strides, y.strides);
    // Long rows are split, short ones stay whole.
    let unit = Some(dims[dims.len() - 1].0).filter(|&width| width < LONG).unwrap_or(1);
    // SAFETY: the work writes every element of its part.
    unsafe {
        alloc_rows_with(size, unit, |first, out| {
            dispatch(Rows { x: x.data, y: y.data, dims: &dims, first: first * unit, out, f: &f });
        })
    }
}

/// Minimum row length for splitting a row among threads.
const LONG: usize = 1 << 11;

/// Innermost rows of [`zip`], or a part of one.
struct Rows<'a, T, F: Binary<T>> {
    x: &'a [T],
    y: &'a [T],
    /// Extents from the outermost, with the strides of both operands.
    dims: &'a [(usize, usize, usize)],
    /// First element computed.
    first: usize,
    out: &'a mut [MaybeUninit<F::Output>],
    f: &'a F,
}

impl<T: Element, F: Binary<T>> SimdOp for Rows<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, y, dims, first, out, f } = self;
        let Some((&(width, sx, sy), outer)) = dims.split_last() else { return };
        // Rows along the innermost outer dimension have constant strides.
        let (&(near, near_x, near_y), far) = outer.split_last().unwrap_or((&(1, 0, 0), &[]));
        let (mut first, mut left) = (first, out);
        while !left.is_empty() {
            let (row, column) = (first / width, first % width);
            let mut at_x = row % near * near_x + column * sx;
            let mut at_y = row % near * near_y + column * sy;
            let mut index = row / near;
            for &(n, sx, sy) in far.iter().rev() {
                at_x += index % n * sx;
                at_y += index % n * sy;
                index /= n;
            }
            let (count, len) = match left.len() / width {
                whole if column == 0 && whole > 0 => (whole.min(near - row % near), width),
                _ => (1, left.len().min(width - column)),
            };
            let (rows, next) = left.split_at_mut(count * len);
            for (i, out) in rows.chunks_exact_mut(len).enumerate() {
                let (x, y) = (&x[at_x + i * near_x..], &y[at_y + i * near_y..]);
                match (sx, sy) {
                    (1, 1) => {
                        for (o, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
                            o.write(f.at::<FMA>(x, y));
                        }
                    }
                    (1, 0) => {
                        let y = y[0];
                        for (o, &x) in out.iter_mut().zip(x) {
                            o.write(f.at::<FMA>(x, y));
                        }
                    }
                    (0, 1) => {
                        let x = x[0];
                        for (o, &y) in out.iter_mut().zip(y) {
                            o.write(f.at::<FMA>(x, y));
                        }
                    }
                    _ => {
                        for (i, o) in out.iter_mut().enumerate() {
                            o.write(f.at::<FMA>(x[i * sx], y[i * sy]));
                        }
                    }
                }
            }
            (first, left) = (first + count * len, next);
        }
    }
}

#[cfg(test)]
mod tests;
