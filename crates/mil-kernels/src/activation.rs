//! What is done to each result of a product.

use crate::elementary;
use crate::elementwise::{Gelu, Silu, map_in_place};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

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
    /// [`elementary::gelu`].
    Gelu,
    /// [`elementary::silu`].
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
            Self::Gelu => elementary::gelu::<false>(x),
            Self::Silu => elementary::silu::<false>(x),
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
            Self::Gelu => map_in_place(values, Gelu),
            Self::Silu => map_in_place(values, Silu),
        }
    }
}
