//! Horizontal sums of registers.

use std::arch::x86_64::*;

/// Sums of four registers, each in the same order.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn sum_lanes4([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // Per 128 bits: a02 b02 a13 b13, then a b c d.
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(all)));
    let half = _mm256_add_ps(_mm512_castps512_ps256(all), high);
    let sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    let mut out = [0f32; 4];
    // SAFETY: `out` has four floats.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}
