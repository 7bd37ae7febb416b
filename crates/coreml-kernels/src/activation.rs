//! Activations fused into the epilogue of a product.

use crate::elementwise::{Gelu, HardSigmoid, HardSwish, Sigmoid, Silu, Unary, map_in_place};
use crate::math;
use crate::simd::Vector;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

/// Activation applied to each result of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// Clamps to `low ..= high`; propagates NaN.
    Clamp {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// [`math::gelu`].
    Gelu,
    /// [`math::silu`].
    Silu,
    /// [`math::sigmoid`].
    Sigmoid,
    /// Elementwise [`HardSigmoid`].
    HardSigmoid(HardSigmoid),
    /// Elementwise [`HardSwish`].
    HardSwish(HardSwish),
}

impl Default for Activation {
    /// Identity: an unbounded clamp.
    fn default() -> Self {
        Self::Clamp { low: f32::NEG_INFINITY, high: f32::INFINITY }
    }
}

impl Activation {
    /// Bounds of a clamp; infinite for other activations.
    pub(crate) fn bounds(self) -> (f32, f32) {
        match self {
            Self::Clamp { low, high } => (low, high),
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        }
    }

    /// The hard swish applied before the bounds while sums are in registers.
    pub(crate) fn hard_swish(self) -> Option<HardSwish> {
        match self {
            Self::HardSwish(f) => Some(f),
            _ => None,
        }
    }

    /// True if bounds and hard swish fully describe it.
    pub(crate) fn in_registers(self) -> bool {
        matches!(self, Self::Clamp { .. } | Self::HardSwish(_))
    }

    /// Scalar definition.
    #[inline(always)]
    pub fn at(self, x: f32) -> f32 {
        match self {
            Self::Clamp { low, high } => {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
            }
            Self::Gelu => math::gelu::<false>(x),
            Self::Silu => math::silu::<false>(x),
            Self::Sigmoid => math::sigmoid::<false>(x),
            Self::HardSigmoid(f) => f.at::<false>(x),
            Self::HardSwish(f) => f.at::<false>(x),
        }
    }

    /// Applies it to each element, single-threaded.
    pub fn apply(self, values: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Gelu if avx512::available() => return avx512::gelu_all(values),
            Self::Silu if avx512::available() => return avx512::silu_all(values),
            Self::Sigmoid if avx512::available() => return avx512::sigmoid_all(values),
            _ => {}
        }
        match self {
            Self::Clamp { .. } => values.iter_mut().for_each(|v| *v = self.at(*v)),
            Self::Gelu => map_in_place(values, Gelu),
            Self::Silu => map_in_place(values, Silu),
            Self::Sigmoid => map_in_place(values, Sigmoid),
            Self::HardSigmoid(f) => map_in_place(values, f),
            Self::HardSwish(f) => map_in_place(values, f),
        }
    }
}

/// [`HardSwish`] on registers.
#[derive(Clone, Copy)]
pub(crate) struct Gate<V> {
    /// True if there is a threshold.
    cuts: bool,
    threshold: V,
    slope: V,
    offset: V,
    zero: V,
    one: V,
}

impl<V: Vector> Gate<V> {
    /// # Safety
    /// Same as [`Vector`].
    #[inline(always)]
    pub(crate) unsafe fn new(f: &HardSwish) -> Self {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (cuts, threshold) = (f.threshold.is_some(), V::splat(f.threshold.unwrap_or(0.0)));
            let (slope, offset) = (V::splat(f.gate.slope), V::splat(f.gate.offset));
            Self { cuts, threshold, slope, offset, zero: V::splat(0.0), one: V::splat(1.0) }
        }
    }

    /// # Safety
    /// Same as [`Vector`].
    #[inline(always)]
    pub(crate) unsafe fn at(&self, v: V) -> V {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let v = if self.cuts { v.kept_from(self.threshold) } else { v };
            v.times(v.times(self.slope).plus(self.offset).between(self.zero, self.one))
        }
    }
}
