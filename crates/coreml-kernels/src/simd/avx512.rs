//! AVX-512: sixteen floats.

use std::arch::x86_64::*;

use super::Vector;
use crate::horizontal_sum::sum_lanes4;

/// The lanes that are `count` first ones.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// AVX-512F.
impl Vector for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: the contract; a hint reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the contract of the trait, here and in all functions below.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the contract.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn totals(registers: [Self; 4]) -> [f32; 4] {
        // SAFETY: the contract.
        unsafe { sum_lanes4(registers) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the contract: 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the contract; lanes that the mask leaves out are not read.
        unsafe { _mm512_maskz_loadu_ps(first(count), from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the contract.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: the contract; lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_ps(to, first(count), self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn kept_from(self, least: Self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self, least), self) }
    }

    #[inline(always)]
    unsafe fn between(self, low: Self, high: Self) -> Self {
        // SAFETY: the contract. Of a pair with NaN the second operand is the result.
        unsafe { _mm512_min_ps(high, _mm512_max_ps(low, self)) }
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: the contract. `max` gives `other` where it is NaN; where `self` is, that is kept.
        unsafe {
            let odd = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
            _mm512_mask_mov_ps(_mm512_max_ps(self, other), odd, self)
        }
    }
}
