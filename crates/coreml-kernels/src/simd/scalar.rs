//! The scalar definition: one element.

use super::Vector;

/// The definition: one element.
impl Vector for f32 {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the contract.
        unsafe { *from }
    }

    #[inline(always)]
    unsafe fn totals(registers: [Self; 4]) -> [f32; 4] {
        registers
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the contract: two bytes.
        half::f16::from_le_bytes(unsafe { *from.cast::<[u8; 2]>() }).to_f32()
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the contract: there is an element if the count is not zero.
        if count == 0 { 0.0 } else { unsafe { *from } }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the contract.
        unsafe { to.write(self) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        if count > 0 {
            // SAFETY: the contract.
            unsafe { to.write(self) }
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        self + a * b
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    unsafe fn kept_from(self, least: Self) -> Self {
        if self < least { 0.0 } else { self }
    }

    #[inline(always)]
    unsafe fn between(self, low: Self, high: Self) -> Self {
        let v = if self < low { low } else { self };
        if v > high { high } else { v }
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }
}
