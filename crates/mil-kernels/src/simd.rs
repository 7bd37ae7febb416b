//! Registers of one instruction set, for tile bodies that are written once.
//!
//! A body generic over [`Vector`] is `#[inline(always)]` and is called from one function per instruction set, which enables
//! its features.

#![allow(clippy::needless_range_loop, reason = "dimensions and lanes are addressed by number")]

/// Elements in one register.
///
/// # Safety
/// Every function may only run where the CPU has the instruction set of the implementation. Pointers must be valid for
/// [`LANES`](Self::LANES) elements, or for `count` of them.
pub(crate) trait Vector: Copy {
    /// Elements of a register.
    const LANES: usize;
    /// The same element in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// Elements from `from` on.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` elements, at most a register; zeros behind them.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// Writes all lanes.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count` lanes.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    /// `self + a · b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    unsafe fn plus(self, other: Self) -> Self;
    /// `self − other`.
    unsafe fn minus(self, other: Self) -> Self;
    /// `self · other`.
    unsafe fn times(self, other: Self) -> Self;
    /// Zero where a lane is less than `least`; NaN stays.
    unsafe fn kept_from(self, least: Self) -> Self;
    /// No less than `low` and no more than `high`; NaN stays.
    unsafe fn between(self, low: Self, high: Self) -> Self;
    /// Asks for a line of the cache that will be read.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    /// The larger of each pair of lanes; NaN where one is.
    unsafe fn larger(self, other: Self) -> Self;
}

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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

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

    /// All bits of the first `count` lanes of eight.
    #[inline(always)]
    unsafe fn mask(count: usize) -> __m256i {
        const ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight elements from one of the first nine on; the caller's CPU has AVX2.
        unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - count.min(8)).cast()) }
    }

    /// AVX2 with FMA.
    impl Vector for __m256 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the contract of the trait, here and in all functions below.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the contract.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            // SAFETY: the contract; lanes that the mask leaves out are not read.
            unsafe { _mm256_maskload_ps(from, mask(count)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the contract.
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            // SAFETY: the contract; lanes that the mask leaves out are not written.
            unsafe { _mm256_maskstore_ps(to, mask(count), self) }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the contract.
            unsafe { _mm256_fmadd_ps(a, b, self) }
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: the contract.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: the contract.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn times(self, other: Self) -> Self {
            // SAFETY: the contract.
            unsafe { _mm256_mul_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn kept_from(self, least: Self) -> Self {
            // SAFETY: the contract.
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(self, least), self) }
        }

        #[inline(always)]
        unsafe fn between(self, low: Self, high: Self) -> Self {
            // SAFETY: the contract. Of a pair with NaN the second operand is the result.
            unsafe { _mm256_min_ps(high, _mm256_max_ps(low, self)) }
        }

        #[inline(always)]
        unsafe fn larger(self, other: Self) -> Self {
            // SAFETY: the contract. `max` gives `other` where it is NaN; where `self` is, that is kept.
            unsafe {
                let odd = _mm256_cmp_ps::<_CMP_UNORD_Q>(self, self);
                _mm256_blendv_ps(_mm256_max_ps(self, other), self, odd)
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::Vector;

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
}
