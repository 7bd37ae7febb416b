//! Rounding to i16: 13 bits and a sign, in groups that share a scale.

use std::arch::x86_64::*;

use super::{GROUP, PAIRS, TOP};

/// 1.5 · 2²³: a sum with it is rounded to a whole number, which its lowest bits hold in two's complement.
const WHOLE: f32 = 12_582_912.0;

/// A group as pairs of words, the first one low; its scale, and whether all elements are finite.
#[inline(always)]
pub(super) fn round(group: &[f32; GROUP], pairs: &mut [u32; PAIRS]) -> (f32, bool) {
    // Finite magnitudes are ordered as their bits are; infinity and NaN are above them.
    let mut top = 0;
    for v in group {
        top = top.max(v.to_bits() & 0x7fff_ffff);
    }
    let top = f32::from_bits(top);
    let scale = top / TOP;
    // A group of zeros, or of what is next to nothing, has words of zero.
    let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    let mut words = [0u32; GROUP];
    for (word, v) in words.iter_mut().zip(group) {
        *word = (v * inverse + WHOLE).to_bits();
    }
    for (pair, words) in pairs.iter_mut().zip(words.as_chunks::<2>().0) {
        *pair = words[0] & 0xffff | words[1] << 16;
    }
    (scale, top.is_finite())
}

/// Groups whose scales are computed together: as many as a register has lanes.
const TOGETHER: usize = 16;

/// [`round`] of all groups of a row; whether all elements are finite. What comes after one that is not is not written.
///
/// # Panics
/// When there are no pairs or no scale for a group.
#[target_feature(enable = "avx512f")]
pub(super) fn round_row(values: &[f32], pairs: &mut [u32], scales: &mut [f32]) -> bool {
    let (groups, rest) = values.as_chunks::<GROUP>();
    let pairs = &mut pairs.as_chunks_mut::<PAIRS>().0[..groups.len()];
    let scales = &mut scales[..groups.len()];
    assert!(rest.is_empty(), "whole groups");
    let (many, few) = groups.as_chunks::<TOGETHER>();
    let (many_pairs, few_pairs) = pairs.as_chunks_mut::<TOGETHER>();
    let (many_scales, few_scales) = scales.as_chunks_mut::<TOGETHER>();
    let many = many.iter().zip(many_pairs).zip(many_scales);
    let mut few = few.iter().zip(few_pairs).zip(few_scales);
    many.into_iter().all(|((groups, pairs), scales)| round_many(groups, pairs, scales))
        && few.all(|((group, pairs), scale)| {
            let finite;
            (*scale, finite) = round(group, pairs);
            finite
        })
}

/// The two registers of a group.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(group: &[f32; GROUP]) -> [__m512; 2] {
    // SAFETY: 32 floats are there.
    unsafe { [_mm512_loadu_ps(group.as_ptr()), _mm512_loadu_ps(group.as_ptr().add(16))] }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn round_many(
    groups: &[[f32; GROUP]; TOGETHER],
    pairs: &mut [[u32; PAIRS]; TOGETHER],
    scales: &mut [f32; TOGETHER],
) -> bool {
    // As integers: finite magnitudes are ordered as their bits are; infinity and NaN are above them.
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let top: [__m512i; TOGETHER] = std::array::from_fn(|i| {
        let [a, b] = load(&groups[i]).map(|v| _mm512_and_si512(_mm512_castps_si512(v), magnitude));
        _mm512_max_epi32(a, b)
    });
    let top = across(top);
    if _mm512_cmpge_epi32_mask(top, _mm512_set1_epi32(0x7f80_0000)) != 0 {
        return false;
    }
    let scale = _mm512_div_ps(_mm512_castsi512_ps(top), _mm512_set1_ps(TOP));
    // A group of zeros, or of what is next to nothing, has words of zero.
    let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(scale, _mm512_set1_ps(f32::MIN_POSITIVE));
    let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(1.0), scale);
    let mut inverses = [0f32; TOGETHER];
    // SAFETY: both have 16 elements.
    unsafe {
        _mm512_storeu_ps(scales.as_mut_ptr(), scale);
        _mm512_storeu_ps(inverses.as_mut_ptr(), inverse);
    }
    for ((group, pairs), inverse) in groups.iter().zip(pairs).zip(inverses) {
        let words = load(group).map(|v| {
            let whole = _mm512_add_ps(_mm512_mul_ps(v, _mm512_set1_ps(inverse)), _mm512_set1_ps(WHOLE));
            // The low halves.
            _mm512_cvtepi32_epi16(_mm512_castps_si512(whole))
        });
        // SAFETY: eight pairs each.
        unsafe {
            _mm256_storeu_si256(pairs.as_mut_ptr().cast(), words[0]);
            _mm256_storeu_si256(pairs.as_mut_ptr().add(8).cast(), words[1]);
        }
    }
    true
}

/// The largest lane of each register.
#[inline]
#[target_feature(enable = "avx512f")]
fn across(v: [__m512i; TOGETHER]) -> __m512i {
    // Neighbours' lanes side by side, so that each step halves what is left of a register: first within quarters.
    let two: [__m512i; 8] = std::array::from_fn(|i| {
        let (a, b) = (v[2 * i], v[2 * i + 1]);
        _mm512_max_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
    });
    let four: [__m512i; 4] = std::array::from_fn(|i| {
        let (a, b) = (two[2 * i], two[2 * i + 1]);
        _mm512_max_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    });
    let quarters = |a, b| _mm512_max_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    quarters(quarters(four[0], four[1]), quarters(four[2], four[3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_groups_are_rounded_as_single_ones() {
        if !crate::isa::Isa::Avx512.enabled() {
            return;
        }
        for count in [1, 15, 16, 17, 37, 64] {
            let mut values: Vec<f32> = (0..count * GROUP)
                .map(|i| ((i * 7919 % 1013) as f32 - 506.0) * f32::powi(2.0, (i / GROUP * 5 % 40) as i32 - 20))
                .collect();
            values[..GROUP].fill(0.0);
            if count > 16 {
                values[16 * GROUP..][..GROUP].fill(1e-42);
                values[15 * GROUP..][..GROUP].iter_mut().for_each(|v| *v *= f32::MAX / 1e3);
            }
            values.iter_mut().for_each(|v| *v = v.clamp(f32::MIN, f32::MAX));
            let (mut pairs, mut scales) = (vec![0; count * PAIRS], vec![0.0; count]);
            // SAFETY: the CPU has the instructions.
            assert!(unsafe { round_row(&values, &mut pairs, &mut scales) });
            for (i, group) in values.as_chunks::<GROUP>().0.iter().enumerate() {
                let mut want = [0; PAIRS];
                let (scale, finite) = round(group, &mut want);
                assert!(finite);
                assert_eq!((scales[i], &pairs[i * PAIRS..][..PAIRS]), (scale, &want[..]), "group {i} of {count}");
            }
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, count * GROUP / 2, count * GROUP - 1] {
                    let mut values = values.clone();
                    values[at] = odd;
                    // SAFETY: as above.
                    assert!(!unsafe { round_row(&values, &mut pairs, &mut scales) });
                }
            }
        }
    }
}
