//! WebAssembly's registers of 128 bits: four floats, sixteen bytes. A module either has them or not: nothing is detected.

use std::arch::wasm32::*;

use super::{Bytes, Vector};

/// Widens the fp16 elements in the low halves of four lanes.
///
/// Multiplying by 2¹¹² moves the exponent, of subnormal numbers too; infinity and NaN get the largest exponent instead
/// (F. Giesen, "Half to float done quick", 2012).
#[inline(always)]
fn widen(halves: v128) -> v128 {
    let magnitude = v128_and(halves, u32x4_splat(0x7fff));
    let sign = u32x4_shl(v128_and(halves, u32x4_splat(0x8000)), 16);
    let moved = f32x4_mul(u32x4_shl(magnitude, 13), f32x4_splat(f32::from_bits(0x7780_0000)));
    let largest = v128_and(u32x4_gt(magnitude, u32x4_splat(0x7bff)), u32x4_splat(0x7f80_0000));
    v128_or(v128_or(moved, largest), sign)
}

impl Vector for v128 {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        f32x4_splat(value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the contract of the trait, here and in all functions below.
        unsafe { v128_load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        let pairs = |a, b| f32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b));
        let mut out = [0f32; 4];
        // SAFETY: room for four elements.
        unsafe { v128_store(out.as_mut_ptr().cast(), pairs(pairs(a, b), pairs(c, d))) };
        out
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the contract: eight bytes.
        widen(u32x4_extend_low_u16x8(unsafe { v128_load64_zero(from.cast()) }))
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut lanes = [0f32; 4];
        // SAFETY: the contract; the array has four elements.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count.min(4));
            v128_load(lanes.as_ptr().cast())
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the contract.
        unsafe { v128_store(to.cast(), self) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut lanes = [0f32; 4];
        // SAFETY: the contract; the array has four elements.
        unsafe {
            v128_store(lanes.as_mut_ptr().cast(), self);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count.min(4));
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        f32x4_add(self, f32x4_mul(a, b))
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        f32x4_add(self, other)
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        f32x4_sub(self, other)
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        f32x4_mul(self, other)
    }

    #[inline(always)]
    unsafe fn kept_from(self, least: Self) -> Self {
        v128_andnot(self, f32x4_lt(self, least))
    }

    #[inline(always)]
    unsafe fn between(self, low: Self, high: Self) -> Self {
        // NaN in either operand is the result.
        f32x4_min(high, f32x4_max(low, self))
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // NaN in either operand is the result.
        f32x4_max(self, other)
    }
}

impl Bytes for v128 {
    const LANES: usize = 1;
    type Sums = v128;
    type Floats = v128;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the contract of the trait, here and in all functions below.
        unsafe { v128_load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: the contract.
        unsafe { v128_load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(self) -> Self {
        v128_and(self, u8x16_splat(15))
    }

    #[inline(always)]
    unsafe fn high_nibbles(self) -> Self {
        u8x16_shr(self, 4)
    }

    #[inline(always)]
    unsafe fn look_up(self, index: Self) -> Self {
        u8x16_swizzle(self, index)
    }

    #[inline(always)]
    unsafe fn look_up_64([a, b, c, d]: [Self; 4], index: Self) -> Self {
        // An index of 16 and more, or less than 0 after the subtraction, gives zero.
        let part = |table, first| u8x16_swizzle(table, u8x16_sub(index, u8x16_splat(first)));
        v128_or(v128_or(part(a, 0), part(b, 16)), v128_or(part(c, 32), part(d, 48)))
    }

    #[inline(always)]
    unsafe fn interleave(low: Self, high: Self) -> (Self, Self) {
        (
            u8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(low, high),
            u8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(low, high),
        )
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        i32x4_splat(0)
    }

    #[inline(always)]
    unsafe fn add_products(sums: Self::Sums, words: Self, x: *const i16) -> Self::Sums {
        // SAFETY: the contract: eight integers from `x` on.
        i32x4_add(sums, i32x4_dot_i16x8(words, unsafe { v128_load(x.cast()) }))
    }

    #[inline(always)]
    unsafe fn zero_floats() -> Self::Floats {
        f32x4_splat(0.0)
    }

    #[inline(always)]
    unsafe fn add_scaled(floats: Self::Floats, sums: Self::Sums, scales: *const f32) -> Self::Floats {
        // SAFETY: the contract: one scale.
        unsafe { Self::add_scaled_all(floats, sums, *scales) }
    }

    #[inline(always)]
    unsafe fn add_scaled_all(floats: Self::Floats, sums: Self::Sums, scale: f32) -> Self::Floats {
        f32x4_add(floats, f32x4_mul(f32x4_convert_i32x4(sums), f32x4_splat(scale)))
    }

    #[inline(always)]
    unsafe fn total(floats: Self::Floats) -> f32 {
        let halves = f32x4_add(floats, i64x2_shuffle::<1, 0>(floats, floats));
        f32x4_extract_lane::<0>(halves) + f32x4_extract_lane::<1>(halves)
    }

    #[inline(always)]
    unsafe fn widen_signed(self) -> (Self, Self) {
        (i16x8_extend_low_i8x16(self), i16x8_extend_high_i8x16(self))
    }

    #[inline(always)]
    unsafe fn widen_unsigned(self) -> (Self, Self) {
        (u16x8_extend_low_u8x16(self), u16x8_extend_high_u8x16(self))
    }

    #[inline(always)]
    unsafe fn store_lanes(self, to: *mut u8, _distance: usize) {
        // SAFETY: the contract: 16 bytes.
        unsafe { v128_store(to.cast(), self) }
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f32, _distance: usize) {
        // SAFETY: the contract: eight elements.
        unsafe {
            v128_store(to.cast(), widen(u32x4_extend_low_u16x8(self)));
            v128_store(to.add(4).cast(), widen(u32x4_extend_high_u16x8(self)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened() {
        for bits in 0..=u16::MAX {
            let mut out = [0f32; 4];
            let halves = [bits, 0, bits, 1];
            // SAFETY: eight bytes in, four floats out.
            unsafe { v128_store(out.as_mut_ptr().cast(), <v128 as Vector>::load_f16(halves.as_ptr().cast())) };
            let wanted = half::f16::from_bits(bits).to_f32();
            assert!(out[0].to_bits() == wanted.to_bits() || (wanted.is_nan() && out[0].is_nan()), "{bits:#x}: {out:?}");
        }
    }
}
