//! The vectors of a product, prepared for the kernels of an instruction set.

use super::shuffle_i16;
#[cfg(target_arch = "x86_64")]
use super::vnni_i16;

/// The vectors in the element orders of the variants.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 variants read other orders"))]
pub(super) struct Input<'a> {
    /// The vectors, and how many.
    pub(super) x: &'a [f32],
    pub(super) count: usize,
    /// In blocks of 128: element `8·j + s` is at `16·s + j` (4-bit kernel).
    pub(super) by_nibble: Vec<f32>,
    /// In blocks of 64, in the order of widened bytes (table kernels).
    pub(super) by_lane: Vec<f32>,
    /// In fixed point, if allowed and possible: for AVX-512, and for byte shuffles.
    #[cfg(target_arch = "x86_64")]
    pub(super) fixed: Option<vnni_i16::Fixed>,
    pub(super) rounded: Option<shuffle_i16::Rounded>,
}

/// Order of the 64 elements of a block after `unpack{lo,hi}_epi8` and conversion by halves.
#[cfg(target_arch = "x86_64")]
const LANE_ORDER: [usize; 8] = [0, 16, 32, 48, 8, 24, 40, 56];

/// Element orders needed by a call: for 4-bit weights, for other tables, for 8-bit integers.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) nibble: bool,
    pub(super) lane: bool,
    pub(super) plain: bool,
}

impl Input<'_> {
    pub(super) fn plain(x: &[f32], count: usize, _: Orders) -> Input<'_> {
        Input {
            x,
            count,
            by_nibble: Vec::new(),
            by_lane: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            fixed: None,
            rounded: None,
        }
    }

    /// Of one vector.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn ordered(x: &[f32], count: usize, orders: Orders) -> Input<'_> {
        if count > 1 {
            return Input::plain(x, count, orders);
        }
        let mut by_nibble = Vec::new();
        if orders.nibble {
            by_nibble.resize(x.len() / 128 * 128, 0.0);
            for (to, from) in by_nibble.chunks_exact_mut(128).zip(x.chunks_exact(128)) {
                for (i, &v) in from.iter().enumerate() {
                    to[i % 8 * 16 + i / 8] = v;
                }
            }
        }
        let mut by_lane = Vec::new();
        if orders.lane {
            by_lane.resize(x.len() / 64 * 64, 0.0);
            for (to, from) in by_lane.chunks_exact_mut(64).zip(x.chunks_exact(64)) {
                for (to, &at) in to.chunks_exact_mut(8).zip(&LANE_ORDER) {
                    to.copy_from_slice(&from[at..at + 8]);
                }
            }
        }
        Input { x, count, by_nibble, by_lane, fixed: None, rounded: None }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn rounded(x: &[f32], count: usize, orders: Orders) -> Input<'_> {
        match vnni_i16::Fixed::new(x, count, orders) {
            Some(fixed) => Input { fixed: Some(fixed), ..Input::plain(x, count, orders) },
            None => Input::ordered(x, count, orders),
        }
    }

    /// Whether all vectors are there in fixed point.
    pub(super) fn is_fixed(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.fixed.is_some() {
            return true;
        }
        self.rounded.is_some()
    }
}
