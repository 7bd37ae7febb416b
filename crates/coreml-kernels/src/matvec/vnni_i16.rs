//! Palettized and block-quantized weights times a vector in 16-bit fixed point (AVX-512 VNNI), for vectors that a model
//! declares as fp16.
//!
//! The vector is rounded to 16 bits in blocks of [`BLOCK`] elements that share a scale, table entries to 14 bits (with
//! a power of two as scale, so that the larger ones stay exact); products are summed exactly in 32 bits within a block
//! and in f32 between blocks. With `a` the largest element of a block and `t` the largest entry, the error is at most
//! `2⁻¹⁶ · a · Σ|w| + 2⁻¹³ · t · Σ|x|`; the rounding of an fp16 vector is itself up to `2⁻¹² · a`. Block-quantized
//! integers are used unchanged: only the first term remains, with the integers as `w`.

use std::arch::x86_64::*;

use super::avx512::{Unpack, ahead, byte_tables, look_up, table};
use super::{Input, Orders};
use crate::horizontal_sum::sum_lanes4;
use crate::isa::Isa;
use crate::weight_matrix::{Blocks, Lut, WeightMatrix};

/// Number of vector elements that share a scale: the 4-bit indices in 512 bits.
pub(super) const BLOCK: usize = 128;

/// The vector as i16 blocks, in the orders of unpacked indices.
pub(super) struct Fixed {
    /// Scale of each block: an element is its i16 value times this.
    scales: Vec<f32>,
    /// Column `4·j + s` of a block is at `32·s + j` (4-bit indices).
    by_nibble: Vec<Words>,
    /// Each half block in the order of `unpack{lo,hi}_epi8` (other widths).
    by_lane: Vec<Words>,
    /// In natural order (8-bit integers).
    plain: Vec<Words>,
}

/// A block of the vector, aligned to a cache line.
#[repr(align(64))]
struct Words([i16; BLOCK]);

impl Fixed {
    /// `None` if an element is not finite or the CPU lacks the variant.
    pub(super) fn new(x: &[f32], orders: Orders) -> Option<Self> {
        // SAFETY: the instruction set is enabled.
        Isa::Avx512Vbmi.enabled().then(|| unsafe { Self::rounded(x, orders) })?
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn rounded(x: &[f32], orders: Orders) -> Option<Self> {
        let (blocks, rest) = x.as_chunks::<BLOCK>();
        // Zero padding, so that indices there have no effect.
        let mut last = [0f32; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let count = x.len().div_ceil(BLOCK);
        let mut fixed =
            Self { scales: Vec::with_capacity(count), by_nibble: Vec::new(), by_lane: Vec::new(), plain: Vec::new() };
        for x in blocks.iter().chain([&last]).take(count) {
            // Finite magnitudes compare like their bits; infinity and NaN are above them.
            let top = f32::from_bits(x.iter().fold(0, |top, v| top.max(v.to_bits() & 0x7fff_ffff)));
            if !top.is_finite() {
                return None;
            }
            // Blocks of zeros or negligible values become zeros.
            let scale = top / 32767.0;
            let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            let inverse = _mm512_set1_ps(inverse);
            let mut words = [_mm512_setzero_si512(); 4];
            for (words, x) in words.iter_mut().zip(x.as_chunks::<32>().0) {
                // SAFETY: 32 floats are in bounds.
                let (a, b) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
                // Rounds to nearest, ties to even.
                let narrow = |v| _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)));
                *words = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(narrow(a)), narrow(b));
            }
            fixed.scales.push(scale);
            if orders.nibble {
                fixed.by_nibble.push(by_nibble(words));
            }
            if orders.lane {
                fixed.by_lane.push(by_lane(words));
            }
            if orders.plain {
                fixed.plain.push(store(words));
            }
        }
        Some(fixed)
    }
}

/// Permutes i16 value `4·j + s` to `32·s + j`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn by_nibble(words: [__m512i; 4]) -> Words {
    const ORDER: [i16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i % 8 * 4 + i / 8) as i16;
            i += 1;
        }
        order
    };
    // SAFETY: 64 bytes are in bounds.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    // Eight values of each kind per 128 bits, then a transpose of the quarters of the four registers.
    let [a, b, c, d] = words.map(|w| _mm512_permutexvar_epi16(order, w));
    let (ab_low, ab_high) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
    store([
        _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high),
    ])
}

/// Each half in the order of `LANE_ORDER`: first the even eighths, then the odd ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn by_lane([a, b, c, d]: [__m512i; 4]) -> Words {
    store([
        _mm512_shuffle_i64x2::<0x88>(a, b),
        _mm512_shuffle_i64x2::<0xdd>(a, b),
        _mm512_shuffle_i64x2::<0x88>(c, d),
        _mm512_shuffle_i64x2::<0xdd>(c, d),
    ])
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn store(words: [__m512i; 4]) -> Words {
    let mut out = Words([0; BLOCK]);
    for (out, words) in out.0.as_chunks_mut::<32>().0.iter_mut().zip(words) {
        // SAFETY: the destination has 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words) };
    }
    out
}

/// Table entries as i16 values below 2¹³, and their scale; `None` if an entry is not finite.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub(crate) fn words(entries: &[u8], out: &mut [i16; 256]) -> Option<f32> {
    const MAGNITUDE: u16 = 0x7fff;
    const INFINITY: u16 = 0x7c00;
    let entries = entries.as_chunks::<2>().0;
    let top = entries.iter().fold(0, |top, &e| top.max(u16::from_le_bytes(e) & MAGNITUDE));
    if top >= INFINITY {
        return None;
    }
    // 2^(exponent − 12): the largest entry is between 2¹² and 2¹³. Subnormal entries use the smallest exponent.
    let exponent = i32::from(top >> 10).max(1) - 15;
    let scale = f32::from_bits(((exponent - 12 + 127) as u32) << 23);
    let inverse = f32::from_bits(((12 - exponent + 127) as u32) << 23);
    for (out, e) in out.chunks_mut(16).zip(entries.chunks(16)) {
        let mut halves = [[0u8; 2]; 16];
        halves[..e.len()].copy_from_slice(e);
        // SAFETY: 32 bytes are in bounds, and the destination has 16 i16 values.
        unsafe {
            let values = _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()));
            let words = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(inverse)));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(words));
        }
    }
    Some(scale)
}

/// Rows of a palettized matrix; rows with a non-finite table use the scalar definition.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub(super) fn rows(
    weight: &WeightMatrix<'_>,
    l: &Lut<'_>,
    first: usize,
    input: &Input<'_>,
    x: &Fixed,
    out: &mut [f32],
) {
    let mut entries = [0i16; 256];
    let mut done = 0;
    while done < out.len() {
        let row = first + done;
        let group = row / l.group_rows;
        let n = ((group + 1) * l.group_rows - row).min(out.len() - done);
        let out = &mut out[done..done + n];
        done += n;
        let Some(scale) = words(table(l, group), &mut entries) else {
            super::expand_and_dot(weight, row, input.x, out);
            continue;
        };
        // SAFETY: an array of i16 values, read as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), 2 << l.bits) };
        let bits = l.bits as usize;
        let start = row * weight.cols * bits / 8;
        let row_bytes = weight.cols * bits / 8;
        let indices = |r: usize| &l.indices[start + r * row_bytes..][..row_bytes];
        match bits {
            4 => nibbles(indices, bytes, x, out),
            8 => tables::<true>(indices, bits, bytes, x, out),
            _ => tables::<false>(indices, bits, bytes, x, out),
        }
        out.iter_mut().for_each(|o| *o *= scale);
    }
}

/// True if [`block_rows`] supports integers in such blocks.
pub(super) fn holds(b: &Blocks<'_>, cols: usize) -> bool {
    cols.is_multiple_of(BLOCK) && (b.block_cols == SCALED || b.block_cols.is_multiple_of(BLOCK))
}

/// Number of columns per scale in blocks with several scales.
const SCALED: usize = 32;

/// Rows of block-quantized integers, used as i16 values: `Σ scale · (Σ q · x − offset · Σ x)`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub(super) fn block_rows(b: &Blocks<'_>, first: usize, whole_x: &[f32], x: &Fixed, out: &mut [f32]) {
    let (cols, per_row) = (whole_x.len(), whole_x.len() / b.block_cols);
    let bytes = cols * b.bits as usize / 8;
    let wide = b.block_cols != SCALED;
    let integers = |r: usize| &b.data[(first + r) * bytes..][..bytes];
    let row = |r: usize| {
        let group = (first + r) / b.block_rows * per_row;
        let scales = Scales { all: &b.scale[group..][..per_row], block_cols: b.block_cols };
        match (b.bits, b.signed, wide) {
            (4, _, true) => four_bits::<true>(integers(r), b.signed, x, scales),
            (4, _, false) => four_bits::<false>(integers(r), b.signed, x, scales),
            (_, true, true) => eight_bits::<true, true>(integers(r), x, scales),
            (_, true, false) => eight_bits::<true, false>(integers(r), x, scales),
            (_, false, true) => eight_bits::<false, true>(integers(r), x, scales),
            (_, false, false) => eight_bits::<false, false>(integers(r), x, scales),
        }
    };
    all_rows(out, row);
    super::subtract_offsets(b, first, whole_x, out);
}

/// Scales of one row.
#[derive(Clone, Copy)]
struct Scales<'a> {
    all: &'a [f32],
    block_cols: usize,
}

impl<'a> Scales<'a> {
    /// Scale of a whole block.
    #[inline]
    fn wide(&self, block: usize) -> f32 {
        self.all[block * BLOCK / self.block_cols]
    }

    /// Scales of the block's quarters.
    #[inline]
    fn quarters(&self, block: usize) -> &'a [f32; BLOCK / SCALED] {
        &self.all.as_chunks().0[block]
    }
}

/// Sum of one row of 4-bit weights; `WIDE`: a scale covers whole blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn four_bits<const WIDE: bool>(integers: &[u8], signed: bool, x: &Fixed, scales: Scales<'_>) -> __m512 {
    const SIGNED: [i16; 16] = [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1];
    const UNSIGNED: [i16; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let table = if signed { &SIGNED } else { &UNSIGNED };
    // SAFETY: 32 bytes are in bounds. Broadcast twice, since `vpermw` reads five bits of an index.
    let table = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(table.as_ptr().cast()) });
    let quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let mut sum = _mm512_setzero_ps();
    let blocks = integers.as_chunks::<{ BLOCK / 2 }>().0.iter().zip(&x.by_nibble).zip(&x.scales);
    for (i, ((integers, x), &x_scale)) in blocks.enumerate() {
        ahead(integers.as_ptr());
        // Sums of columns 32·k to 32·k + 31 are in the kth quarter.
        let exact = block(nibble_words(integers, table), x);
        let scale = if WIDE {
            _mm512_set1_ps(scales.wide(i) * x_scale)
        } else {
            // SAFETY: 16 bytes are in bounds.
            let four = _mm512_castps128_ps512(unsafe { _mm_loadu_ps(scales.quarters(i).as_ptr()) });
            _mm512_mul_ps(_mm512_permutexvar_ps(quarter, four), _mm512_set1_ps(x_scale))
        };
        sum = _mm512_fmadd_ps(exact, scale, sum);
    }
    sum
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn eight_bits<const SIGNED: bool, const WIDE: bool>(integers: &[u8], x: &Fixed, scales: Scales<'_>) -> __m512 {
    let mut sum = _mm512_setzero_ps();
    let blocks = integers.as_chunks::<BLOCK>().0.iter().zip(&x.plain).zip(&x.scales);
    for (i, ((integers, x), &x_scale)) in blocks.enumerate() {
        ahead(integers.as_ptr());
        ahead(integers[64..].as_ptr());
        let words: [__m512i; 4] = std::array::from_fn(|k| {
            // SAFETY: 32 bytes are in bounds for each k < 4.
            let quarter = unsafe { _mm256_loadu_si256(integers.as_ptr().add(32 * k).cast()) };
            if SIGNED { _mm512_cvtepi8_epi16(quarter) } else { _mm512_cvtepu8_epi16(quarter) }
        });
        if WIDE {
            sum = _mm512_fmadd_ps(block(words, x), _mm512_set1_ps(scales.wide(i) * x_scale), sum);
        } else {
            for (k, (words, scale)) in words.into_iter().zip(scales.quarters(i)).enumerate() {
                let exact = _mm512_cvtepi32_ps(_mm512_madd_epi16(words, quarter(x, k)));
                sum = _mm512_fmadd_ps(exact, _mm512_set1_ps(scale * x_scale), sum);
            }
        }
    }
    sum
}

/// i16 values of 128 4-bit indices or integers, in the order of [`Fixed::by_nibble`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub(crate) fn nibble_words(packed: &[u8; BLOCK / 2], table: __m512i) -> [__m512i; 4] {
    // SAFETY: 64 bytes are in bounds.
    let v = unsafe { _mm512_loadu_si512(packed.as_ptr().cast()) };
    [
        _mm512_permutexvar_epi16(v, table),
        _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(v), table),
        _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(v), table),
        _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(v), table),
    ]
}

/// Products of a block, reduced to sixteen sums of eight each; with `|w| < 2¹³` and `|x| < 2¹⁵` they cannot overflow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn block(w: [__m512i; 4], x: &Words) -> __m512 {
    // Two chains, to hide the latency of the dependent sums.
    let pairs = |k: usize| _mm512_madd_epi16(w[k], quarter(x, k));
    let (a, b) = (pairs(0), pairs(1));
    let (a, b) = (_mm512_dpwssd_epi32(a, w[2], quarter(x, 2)), _mm512_dpwssd_epi32(b, w[3], quarter(x, 3)));
    _mm512_cvtepi32_ps(_mm512_add_epi32(a, b))
}

/// The `k`th 32 of the 128 values of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn quarter(x: &Words, k: usize) -> __m512i {
    let x: &[i16; 32] = &x.0.as_chunks::<32>().0[k];
    // SAFETY: 64 bytes are in bounds.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn nibbles<'a>(indices: impl Fn(usize) -> &'a [u8], table: &[u8], x: &Fixed, out: &mut [f32]) {
    let entries: &[u8; 32] = &table.as_chunks::<32>().0[0];
    // SAFETY: 32 bytes are in bounds. Broadcast twice, since `vpermw` reads five bits of an index.
    let table = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(entries.as_ptr().cast()) });
    let step = |i: &[u8; BLOCK / 2], x: &Words, scale: f32, sum: __m512| {
        let w = nibble_words(i, table);
        _mm512_fmadd_ps(block(w, x), _mm512_set1_ps(scale), sum)
    };
    let row = |r: usize| {
        let mut sum = _mm512_setzero_ps();
        let (whole, rest) = indices(r).as_chunks::<{ BLOCK / 2 }>();
        for ((i, x), &scale) in whole.iter().zip(&x.by_nibble).zip(&x.scales) {
            ahead(i.as_ptr());
            sum = step(i, x, scale, sum);
        }
        if let (false, Some(x), Some(&scale)) = (rest.is_empty(), x.by_nibble.last(), x.scales.last()) {
            let mut last = [0u8; BLOCK / 2];
            last[..rest.len()].copy_from_slice(rest);
            sum = step(&last, x, scale, sum);
        }
        sum
    };
    all_rows(out, row);
}

/// Sums across lanes, four rows at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn all_rows(out: &mut [f32], row: impl Fn(usize) -> __m512) {
    let (fours, rest) = out.as_chunks_mut::<4>();
    for (f, out) in fours.iter_mut().enumerate() {
        let r = f * 4;
        *out = sum_lanes4([row(r), row(r + 1), row(r + 2), row(r + 3)]);
    }
    let (first, zero) = (fours.len() * 4, _mm512_setzero_ps());
    for (i, o) in rest.iter_mut().enumerate() {
        *o = sum_lanes4([row(first + i), zero, zero, zero])[0];
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn tables<'a, const WIDE: bool>(
    indices: impl Fn(usize) -> &'a [u8],
    bits: usize,
    table: &[u8],
    x: &Fixed,
    out: &mut [f32],
) {
    let (low, high) = byte_tables(table);
    let unpack = Unpack::new(bits);
    // A block is 128 indices.
    let (half, size) = (unpack.size, 2 * unpack.size);
    let words = |i: &[u8]| look_up::<WIDE>(unpack.indices::<WIDE>(i), &low, &high);
    let step = |i: &[u8], x: &Words, scale: f32, sum: __m512| {
        let ((a, b), (c, d)) = (words(i), words(&i[half..]));
        _mm512_fmadd_ps(block([a, b, c, d], x), _mm512_set1_ps(scale), sum)
    };
    let row = |r: usize| {
        let mut sum = _mm512_setzero_ps();
        let whole = indices(r).chunks_exact(size);
        let rest = whole.remainder();
        for ((i, x), &scale) in whole.zip(&x.by_lane).zip(&x.scales) {
            ahead(i.as_ptr());
            ahead(i[half..].as_ptr());
            sum = step(i, x, scale, sum);
        }
        if let (false, Some(x), Some(&scale)) = (rest.is_empty(), x.by_lane.last(), x.scales.last()) {
            let mut last = [0u8; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            sum = step(&last[..size], x, scale, sum);
        }
        sum
    };
    all_rows(out, row);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matvec::{Precision, matvec};
    use crate::weight_matrix::Storage;

    fn lut(tables: &[u8]) -> WeightMatrix<'_> {
        static INDICES: [u8; 128] = [0x10; 128];
        let lut = Lut { bits: 4, indices: &INDICES, tables, group_rows: 1 };
        WeightMatrix::new(2, 128, Storage::Lut(lut)).expect("sizes match")
    }

    fn entries(second: &[f32; 2]) -> Vec<u8> {
        let table = |t: [f32; 2]| t.into_iter().chain([0.0; 14]).flat_map(|v| half::f16::from_f32(v).to_le_bytes());
        table([0.5, -1.5]).chain(table(*second)).collect()
    }

    /// 64 times each of the first two entries.
    fn product(tables: &[u8], x: &[f32; 128]) -> [f32; 2] {
        let mut out = [f32::NAN; 2];
        matvec(lut(tables), x, None, Precision::Half, &mut out);
        out
    }

    #[test]
    fn values_that_are_not_finite_stay_what_they_are() {
        let good = entries(&[1.0, 2.0]);
        assert_eq!(product(&good, &[1.0; 128]), [-64.0, 192.0]);
        for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut x = [1.0; 128];
            x[5] = odd;
            let [a, b] = product(&good, &x);
            // Column 5 has index 1.
            assert!(a.to_bits() == (-odd).to_bits() && b.to_bits() == odd.to_bits() || odd.is_nan() && a.is_nan());
            let [a, b] = product(&entries(&[1.0, odd]), &[1.0; 128]);
            assert!(a == -64.0 && (b == odd || b.is_nan() && odd.is_nan()));
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_vanish() {
        // The largest fp16 against vectors of constant magnitude: integer sums reach their bound.
        let largest = entries(&[65504.0, 65504.0]);
        let [_, b] = product(&largest, &[3.0; 128]);
        assert!((b / (128.0 * 65504.0 * 3.0) - 1.0).abs() < 1e-4, "{b}");
        let [_, b] = product(&entries(&[-65504.0, -65504.0]), &[-3e30; 128]);
        assert!((b / (128.0 * 65504.0 * 3e30) - 1.0).abs() < 1e-4, "{b}");
        // The smallest fp16, and zeros.
        let least = half::f16::from_bits(1).to_f32();
        let [_, b] = product(&entries(&[least, least]), &[1.0; 128]);
        assert!((b / (128.0 * least) - 1.0).abs() < 1e-3, "{b}");
        assert_eq!(product(&entries(&[0.0, 0.0]), &[1.0; 128])[1], 0.0);
        assert_eq!(product(&largest, &[0.0; 128]), [0.0; 2]);
        assert_eq!(product(&largest, &[1e-45; 128])[1].abs().min(1.0), product(&largest, &[1e-45; 128])[1].abs());
    }
}
