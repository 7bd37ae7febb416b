//! NEON: four floats, sixteen bytes.

#![allow(clippy::needless_range_loop, reason = "lanes are addressed by number")]

use std::arch::aarch64::*;

use super::{Bytes, Vector};

/// NEON, which every aarch64 CPU has.
impl Vector for float32x4_t {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the contract of the trait, here and in all functions below.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the contract.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        let mut out = [0f32; 4];
        // SAFETY: the contract; room for four elements.
        unsafe { vst1q_f32(out.as_mut_ptr(), vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))) };
        out
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the contract: eight bytes.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut lanes = [0f32; 4];
        // SAFETY: the contract; the array has four elements.
        unsafe {
            for i in 0..4 {
                if i < count {
                    lanes[i] = *from.add(i);
                }
            }
            vld1q_f32(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the contract.
        unsafe { vst1q_f32(to, self) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut lanes = [0f32; 4];
        // SAFETY: the contract; the array has four elements.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), self);
            for i in 0..4 {
                if i < count {
                    to.add(i).write(lanes[i]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract.
        unsafe { vfmaq_f32(self, a, b) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: the contract.
        unsafe { vaddq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: the contract.
        unsafe { vsubq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: the contract.
        unsafe { vmulq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn kept_from(self, least: Self) -> Self {
        // SAFETY: the contract.
        unsafe { vbslq_f32(vcltq_f32(self, least), vdupq_n_f32(0.0), self) }
    }

    #[inline(always)]
    unsafe fn between(self, low: Self, high: Self) -> Self {
        // SAFETY: the contract. NaN in either operand is the result.
        unsafe { vminq_f32(high, vmaxq_f32(low, self)) }
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: the contract. NaN in either operand is the result.
        unsafe { vmaxq_f32(self, other) }
    }
}

/// NEON.
impl Bytes for uint8x16_t {
    const LANES: usize = 1;
    type Sums = int32x4_t;
    type Floats = float32x4_t;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the contract of the trait, here and in all functions below.
        unsafe { vld1q_u8(from) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: the contract.
        unsafe { vld1q_u8(from) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(self) -> Self {
        // SAFETY: the contract.
        unsafe { vandq_u8(self, vdupq_n_u8(15)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(self) -> Self {
        // SAFETY: the contract.
        unsafe { vshrq_n_u8::<4>(self) }
    }

    #[inline(always)]
    unsafe fn look_up(self, index: Self) -> Self {
        // SAFETY: the contract.
        unsafe { vqtbl1q_u8(self, index) }
    }

    #[inline(always)]
    unsafe fn look_up_64([a, b, c, d]: [Self; 4], index: Self) -> Self {
        // SAFETY: the contract.
        unsafe { vqtbl4q_u8(uint8x16x4_t(a, b, c, d), index) }
    }

    #[inline(always)]
    unsafe fn interleave(low: Self, high: Self) -> (Self, Self) {
        // SAFETY: the contract.
        unsafe { (vzip1q_u8(low, high), vzip2q_u8(low, high)) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        // SAFETY: the contract.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn add_products(sums: Self::Sums, words: Self, x: *const i16) -> Self::Sums {
        // SAFETY: the contract: eight integers from `x` on.
        unsafe {
            let (w, x) = (vreinterpretq_s16_u8(words), vld1q_s16(x));
            vmlal_high_s16(vmlal_s16(sums, vget_low_s16(w), vget_low_s16(x)), w, x)
        }
    }

    #[inline(always)]
    unsafe fn zero_floats() -> Self::Floats {
        // SAFETY: the contract.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn add_scaled(floats: Self::Floats, sums: Self::Sums, scales: *const f32) -> Self::Floats {
        // SAFETY: the contract: one scale.
        unsafe { Self::add_scaled_all(floats, sums, *scales) }
    }

    #[inline(always)]
    unsafe fn add_scaled_all(floats: Self::Floats, sums: Self::Sums, scale: f32) -> Self::Floats {
        // SAFETY: the contract.
        unsafe { vfmaq_n_f32(floats, vcvtq_f32_s32(sums), scale) }
    }

    #[inline(always)]
    unsafe fn total(floats: Self::Floats) -> f32 {
        // SAFETY: the contract.
        unsafe { vaddvq_f32(floats) }
    }

    #[inline(always)]
    unsafe fn widen_signed(self) -> (Self, Self) {
        // SAFETY: the contract.
        unsafe {
            let v = vreinterpretq_s8_u8(self);
            let (a, b) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
            (vreinterpretq_u8_s16(a), vreinterpretq_u8_s16(b))
        }
    }

    #[inline(always)]
    unsafe fn widen_unsigned(self) -> (Self, Self) {
        // SAFETY: the contract.
        unsafe { Self::interleave(self, vdupq_n_u8(0)) }
    }

    #[inline(always)]
    unsafe fn store_lanes(self, to: *mut u8, _distance: usize) {
        // SAFETY: the contract: 16 bytes.
        unsafe { vst1q_u8(to, self) }
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f32, _distance: usize) {
        // SAFETY: the contract: eight elements.
        unsafe {
            let halves = vreinterpretq_f16_u8(self);
            vst1q_f32(to, vcvt_f32_f16(vget_low_f16(halves)));
            vst1q_f32(to.add(4), vcvt_high_f32_f16(halves));
        }
    }
}
