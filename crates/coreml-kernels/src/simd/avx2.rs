//! AVX2 with FMA and F16C: eight floats, 32 bytes.

use std::arch::x86_64::*;

use super::{Bytes, Vector};

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
    unsafe fn prefetch(from: *const f32) {
        // SAFETY: the contract; a hint reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        let mut out = [0f32; 4];
        // SAFETY: the contract; room for four elements. Each lane of 128 bits becomes a sum of each register.
        unsafe {
            let lanes = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let sums = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
            _mm_storeu_ps(out.as_mut_ptr(), sums);
        }
        out
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the contract: 16 bytes; F16C comes with the set.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
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

/// AVX2.
impl Bytes for __m256i {
    const LANES: usize = 2;
    type Sums = __m256i;
    type Floats = __m256;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the contract of the trait, here and in all functions below.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn fetch(at: *const u8) {
        // SAFETY: a prefetch is a hint; no address is invalid for it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: the contract.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm256_and_si256(self, _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(self), _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn look_up(self, index: Self) -> Self {
        // SAFETY: the contract.
        unsafe { _mm256_shuffle_epi8(self, index) }
    }

    #[inline(always)]
    unsafe fn look_up_64(tables: [Self; 4], index: Self) -> Self {
        // SAFETY: the contract. A look-up reads the low four bits of an index below 128.
        unsafe {
            let [a, b, c, d] = tables;
            let (a, b) = (_mm256_shuffle_epi8(a, index), _mm256_shuffle_epi8(b, index));
            let (c, d) = (_mm256_shuffle_epi8(c, index), _mm256_shuffle_epi8(d, index));
            // A blend reads the highest bit of a byte: the fifth, then the sixth bit of the index.
            let (fifth, sixth) = (_mm256_slli_epi16::<3>(index), _mm256_slli_epi16::<2>(index));
            _mm256_blendv_epi8(_mm256_blendv_epi8(a, b, fifth), _mm256_blendv_epi8(c, d, fifth), sixth)
        }
    }

    #[inline(always)]
    unsafe fn interleave(low: Self, high: Self) -> (Self, Self) {
        // SAFETY: the contract.
        unsafe { (_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        // SAFETY: the contract.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn add_products(sums: Self::Sums, words: Self, x: *const i16) -> Self::Sums {
        // SAFETY: the contract: 16 integers from `x` on.
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(words, _mm256_loadu_si256(x.cast()))) }
    }

    #[inline(always)]
    unsafe fn zero_floats() -> Self::Floats {
        // SAFETY: the contract.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn add_scaled(floats: Self::Floats, sums: Self::Sums, scales: *const f32) -> Self::Floats {
        // SAFETY: the contract: two scales.
        unsafe {
            let scale = _mm256_set_m128(_mm_broadcast_ss(&*scales.add(1)), _mm_broadcast_ss(&*scales));
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, floats)
        }
    }

    #[inline(always)]
    unsafe fn add_scaled_all(floats: Self::Floats, sums: Self::Sums, scale: f32) -> Self::Floats {
        // SAFETY: the contract.
        unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale), floats) }
    }

    #[inline(always)]
    unsafe fn total(floats: Self::Floats) -> f32 {
        // SAFETY: the contract.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(floats), _mm256_extractf128_ps::<1>(floats));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        }
    }

    #[inline(always)]
    unsafe fn widen_signed(self) -> (Self, Self) {
        // SAFETY: the contract. The byte in the upper half of a word, shifted down with its sign.
        unsafe {
            let (a, b) = (_mm256_unpacklo_epi8(self, self), _mm256_unpackhi_epi8(self, self));
            (_mm256_srai_epi16::<8>(a), _mm256_srai_epi16::<8>(b))
        }
    }

    #[inline(always)]
    unsafe fn widen_unsigned(self) -> (Self, Self) {
        // SAFETY: the contract.
        unsafe {
            let zero = _mm256_setzero_si256();
            (_mm256_unpacklo_epi8(self, zero), _mm256_unpackhi_epi8(self, zero))
        }
    }

    #[inline(always)]
    unsafe fn store_lanes(self, to: *mut u8, distance: usize) {
        // SAFETY: the contract: 16 bytes at both places.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(self));
            _mm_storeu_si128(to.add(distance).cast(), _mm256_extracti128_si256::<1>(self));
        }
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f32, distance: usize) {
        // SAFETY: the contract: eight elements at both places.
        unsafe {
            _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm256_castsi256_si128(self)));
            _mm256_storeu_ps(to.add(distance), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(self)));
        }
    }
}

/// AVX2 bytes whose products are summed by AVX-VNNI, in one instruction.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni(__m256i);

impl Bytes for AvxVnni {
    const LANES: usize = 2;
    type Sums = __m256i;
    type Floats = __m256;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the contract of the trait, here and in all functions below.
        Self(unsafe { <__m256i as Bytes>::load(from) })
    }

    #[inline(always)]
    unsafe fn fetch(at: *const u8) {
        // SAFETY: as above.
        unsafe { <__m256i as Bytes>::fetch(at) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self {
        // SAFETY: the contract.
        Self(unsafe { <__m256i as Bytes>::broadcast(from) })
    }

    #[inline(always)]
    unsafe fn low_nibbles(self) -> Self {
        // SAFETY: the contract.
        Self(unsafe { self.0.low_nibbles() })
    }

    #[inline(always)]
    unsafe fn high_nibbles(self) -> Self {
        // SAFETY: the contract.
        Self(unsafe { self.0.high_nibbles() })
    }

    #[inline(always)]
    unsafe fn look_up(self, index: Self) -> Self {
        // SAFETY: the contract.
        Self(unsafe { self.0.look_up(index.0) })
    }

    #[inline(always)]
    unsafe fn look_up_64(tables: [Self; 4], index: Self) -> Self {
        // SAFETY: the contract.
        let [a, b, c, d] = tables;
        // SAFETY: the contract.
        Self(unsafe { <__m256i as Bytes>::look_up_64([a.0, b.0, c.0, d.0], index.0) })
    }

    #[inline(always)]
    unsafe fn interleave(low: Self, high: Self) -> (Self, Self) {
        // SAFETY: the contract.
        let (a, b) = unsafe { <__m256i as Bytes>::interleave(low.0, high.0) };
        (Self(a), Self(b))
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        // SAFETY: the contract.
        unsafe { <__m256i as Bytes>::zero() }
    }

    #[inline(always)]
    unsafe fn add_products(sums: Self::Sums, words: Self, x: *const i16) -> Self::Sums {
        // SAFETY: the contract: 16 integers from `x` on.
        unsafe { _mm256_dpwssd_avx_epi32(sums, words.0, _mm256_loadu_si256(x.cast())) }
    }

    #[inline(always)]
    unsafe fn zero_floats() -> Self::Floats {
        // SAFETY: the contract.
        unsafe { <__m256i as Bytes>::zero_floats() }
    }

    #[inline(always)]
    unsafe fn add_scaled(floats: Self::Floats, sums: Self::Sums, scales: *const f32) -> Self::Floats {
        // SAFETY: the contract.
        unsafe { <__m256i as Bytes>::add_scaled(floats, sums, scales) }
    }

    #[inline(always)]
    unsafe fn add_scaled_all(floats: Self::Floats, sums: Self::Sums, scale: f32) -> Self::Floats {
        // SAFETY: the contract.
        unsafe { <__m256i as Bytes>::add_scaled_all(floats, sums, scale) }
    }

    #[inline(always)]
    unsafe fn total(floats: Self::Floats) -> f32 {
        // SAFETY: the contract.
        unsafe { <__m256i as Bytes>::total(floats) }
    }

    #[inline(always)]
    unsafe fn widen_signed(self) -> (Self, Self) {
        // SAFETY: the contract.
        let (a, b) = unsafe { self.0.widen_signed() };
        (Self(a), Self(b))
    }

    #[inline(always)]
    unsafe fn widen_unsigned(self) -> (Self, Self) {
        // SAFETY: the contract.
        let (a, b) = unsafe { self.0.widen_unsigned() };
        (Self(a), Self(b))
    }

    #[inline(always)]
    unsafe fn store_lanes(self, to: *mut u8, distance: usize) {
        // SAFETY: the contract.
        unsafe { self.0.store_lanes(to, distance) }
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f32, distance: usize) {
        // SAFETY: the contract.
        unsafe { self.0.store_halves(to, distance) }
    }
}
