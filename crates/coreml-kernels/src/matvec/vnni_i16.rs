//! Palettized and block-quantized weights times one vector or several in 16-bit fixed point (AVX-512 VNNI), for vectors that a model
//! declares as fp16.
//!
//! The vector is rounded to 16 bits in blocks of [`BLOCK`] elements that share a scale, table entries to 14 bits (with
//! a power of two as scale, so that the larger ones stay exact); products are summed exactly in 32 bits within a block
//! and in f32 between blocks. With `a` the largest element of a block and `t` the largest entry, the error is at most
//! `2⁻¹⁶ · a · Σ|w| + 2⁻¹³ · t · Σ|x|`; the rounding of an fp16 vector is itself up to `2⁻¹² · a`. Block-quantized
//! integers are used unchanged: only the first term remains, with the integers as `w`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{Unpack, ahead, byte_tables, look_up, table};
use super::{Input, NEAR, Results, WIDTH, each};
use crate::horizontal_sum::sum_lanes4;
use crate::weight_matrix::{Blocks, Lut, WeightMatrix};

mod fixed;

pub(super) use fixed::Fixed;
use fixed::{Group, Words};

/// Calls a kernel for a group of so many places.
macro_rules! sized {
    ($width:expr, $kernel:ident $(::<$($flag:tt),+>)? ($($argument:expr),+)) => {
        match $width {
            1 => $kernel::<$($($flag,)+)? 1>($($argument),+),
            2 => $kernel::<$($($flag,)+)? 2>($($argument),+),
            4 => $kernel::<$($($flag,)+)? 4>($($argument),+),
            _ => $kernel::<$($($flag,)+)? WIDTH>($($argument),+),
        }
    };
}

/// Number of vector elements that share a scale: the 4-bit indices in 512 bits.
pub(super) const BLOCK: usize = 128;

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
    let n = out.len() / input.count;
    let mut entries = [0i16; 256];
    let mut at = 0;
    while at < n {
        let row = first + at;
        let group = row / l.group_rows;
        let count = ((group + 1) * l.group_rows - row).min(n - at);
        let Some(scale) = words(table(l, group), &mut entries) else {
            each(input, out, |x, out| super::expand_and_dot(weight, row, x, &mut out[at..at + count]));
            at += count;
            continue;
        };
        // SAFETY: an array of i16 values, read as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), 2 << l.bits) };
        let bits = l.bits as usize;
        let row_bytes = weight.cols * bits / 8;
        let indices = Packed { data: &l.indices[row * row_bytes..][..count * row_bytes], row_bytes, bits };
        let mut to = Results { out: &mut *out, n, at, count, scale };
        for x in &x.groups {
            match bits {
                4 => sized!(x.width, nibbles(&indices, bytes, x, &mut to)),
                8 => sized!(x.width, tables::<true>(&indices, bytes, x, &mut to)),
                _ => sized!(x.width, tables::<false>(&indices, bytes, x, &mut to)),
            }
        }
        at += count;
    }
}

/// Packed rows of one table.
struct Packed<'a> {
    data: &'a [u8],
    row_bytes: usize,
    bits: usize,
}

impl<'a> Packed<'a> {
    /// A part of a row.
    #[inline]
    fn part(&self, row: usize, blocks: &Range<usize>) -> &'a [u8] {
        let each = BLOCK / 8 * self.bits;
        let row = &self.data[row * self.row_bytes..][..self.row_bytes];
        &row[blocks.start * each..(blocks.end * each).min(self.row_bytes)]
    }
}

/// Number of columns per scale in blocks with several scales.
const SCALED: usize = 32;

/// Rows of block-quantized integers, used as i16 values: `Σ scale · (Σ q · x − offset · Σ x)`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub(super) fn block_rows(b: &Blocks<'_>, first: usize, input: &Input<'_>, x: &Fixed, out: &mut [f32]) {
    let (n, cols) = (out.len() / input.count, input.x.len() / input.count);
    let bits = b.bits as usize;
    let row_bytes = cols * bits / 8;
    let wide = b.block_cols != SCALED;
    let integers = Packed { data: &b.data[first * row_bytes..][..n * row_bytes], row_bytes, bits };
    let mut to = Results { out: &mut *out, n, at: 0, count: n, scale: 1.0 };
    let scales = AllScales { b, first, per_row: cols / b.block_cols };
    for x in &x.groups {
        match (b.bits, b.signed, wide) {
            (4, _, true) => sized!(x.width, four_bits::<true>(&integers, &scales, x, &mut to)),
            (4, _, false) => sized!(x.width, four_bits::<false>(&integers, &scales, x, &mut to)),
            (_, true, true) => sized!(x.width, eight_bits::<true, true>(&integers, &scales, x, &mut to)),
            (_, true, false) => sized!(x.width, eight_bits::<true, false>(&integers, &scales, x, &mut to)),
            (_, false, true) => sized!(x.width, eight_bits::<false, true>(&integers, &scales, x, &mut to)),
            (_, false, false) => sized!(x.width, eight_bits::<false, false>(&integers, &scales, x, &mut to)),
        }
    }
    each(input, out, |x, out| super::subtract_offsets(b, first, x, out));
}

/// Scales of all rows, from a first one on.
struct AllScales<'a> {
    b: &'a Blocks<'a>,
    first: usize,
    per_row: usize,
}

impl<'a> AllScales<'a> {
    #[inline]
    fn row(&self, r: usize) -> Scales<'a> {
        let group = (self.first + r) / self.b.block_rows * self.per_row;
        Scales { all: &self.b.scale[group..][..self.per_row], block_cols: self.b.block_cols }
    }
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

/// 4-bit weights; `WIDE`: a scale covers whole blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn four_bits<const WIDE: bool, const M: usize>(
    integers: &Packed<'_>,
    scales: &AllScales<'_>,
    x: &Group,
    to: &mut Results<'_>,
) {
    const SIGNED: [i16; 16] = [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1];
    const UNSIGNED: [i16; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let table = if scales.b.signed { &SIGNED } else { &UNSIGNED };
    // SAFETY: 32 bytes are in bounds. Broadcast twice, since `vpermw` reads five bits of an index.
    let table = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(table.as_ptr().cast()) });
    let quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let add = |r: usize, blocks: Range<usize>, sums: &mut [__m512; M]| {
        let scales = scales.row(r);
        let integers = integers.part(r, &blocks).as_chunks::<{ BLOCK / 2 }>().0;
        let mut floats = *sums;
        for (i, integers) in blocks.zip(integers) {
            ahead(integers.as_ptr());
            let w = nibble_words(integers, table);
            let (words, x_scales) = (&x.by_nibble[i * M..][..M], &x.scales[i * M..][..M]);
            let four = if WIDE {
                _mm512_set1_ps(scales.wide(i))
            } else {
                // SAFETY: 16 bytes are in bounds.
                let four = _mm512_castps128_ps512(unsafe { _mm_loadu_ps(scales.quarters(i).as_ptr()) });
                _mm512_permutexvar_ps(quarter, four)
            };
            for v in 0..M {
                // Sums of columns 32·k to 32·k + 31 are in the kth quarter.
                let scale = _mm512_mul_ps(four, _mm512_set1_ps(x_scales[v]));
                floats[v] = _mm512_fmadd_ps(block::<M>(w, &words[v]), scale, floats[v]);
            }
        }
        *sums = floats;
    };
    all_rows(x, add, to);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn eight_bits<const SIGNED: bool, const WIDE: bool, const M: usize>(
    integers: &Packed<'_>,
    scales: &AllScales<'_>,
    x: &Group,
    to: &mut Results<'_>,
) {
    let add = |r: usize, blocks: Range<usize>, sums: &mut [__m512; M]| {
        let scales = scales.row(r);
        let integers = integers.part(r, &blocks).as_chunks::<BLOCK>().0;
        let mut floats = *sums;
        for (i, integers) in blocks.zip(integers) {
            ahead(integers.as_ptr());
            ahead(integers[64..].as_ptr());
            let w: [__m512i; 4] = std::array::from_fn(|k| {
                // SAFETY: 32 bytes are in bounds for each k < 4.
                let quarter = unsafe { _mm256_loadu_si256(integers.as_ptr().add(32 * k).cast()) };
                if SIGNED { _mm512_cvtepi8_epi16(quarter) } else { _mm512_cvtepu8_epi16(quarter) }
            });
            let (words, x_scales) = (&x.plain[i * M..][..M], &x.scales[i * M..][..M]);
            for v in 0..M {
                if WIDE {
                    let scale = _mm512_set1_ps(scales.wide(i) * x_scales[v]);
                    floats[v] = _mm512_fmadd_ps(block::<M>(w, &words[v]), scale, floats[v]);
                } else {
                    for (k, scale) in scales.quarters(i).iter().enumerate() {
                        let exact = _mm512_cvtepi32_ps(_mm512_madd_epi16(w[k], quarter(&words[v], k)));
                        floats[v] = _mm512_fmadd_ps(exact, _mm512_set1_ps(scale * x_scales[v]), floats[v]);
                    }
                }
            }
        }
        *sums = floats;
    };
    all_rows(x, add, to);
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

/// Products of a block, reduced to sixteen sums of eight each; with `|w| < 2¹³` and `|x| < 2¹⁵` they cannot overflow. One of
/// `M` vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn block<const M: usize>(w: [__m512i; 4], x: &Words) -> __m512 {
    let pairs = |k: usize| _mm512_madd_epi16(w[k], quarter(x, k));
    let add = |sum, k: usize| _mm512_dpwssd_epi32(sum, w[k], quarter(x, k));
    _mm512_cvtepi32_ps(if M == 1 {
        // Two chains, to hide the latency of the dependent sums; several vectors hide it themselves.
        _mm512_add_epi32(add(pairs(0), 2), add(pairs(1), 3))
    } else {
        add(add(add(pairs(0), 1), 2), 3)
    })
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
fn nibbles<const M: usize>(indices: &Packed<'_>, table: &[u8], x: &Group, to: &mut Results<'_>) {
    let entries: &[u8; 32] = &table.as_chunks::<32>().0[0];
    // SAFETY: 32 bytes are in bounds. Broadcast twice, since `vpermw` reads five bits of an index.
    let table = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(entries.as_ptr().cast()) });
    let add = |r: usize, blocks: Range<usize>, sums: &mut [__m512; M]| {
        let (whole, rest) = indices.part(r, &blocks).as_chunks::<{ BLOCK / 2 }>();
        let first = blocks.start;
        let mut floats = *sums;
        for (i, packed) in (first..).zip(whole) {
            ahead(packed.as_ptr());
            products(nibble_words(packed, table), &x.by_nibble, &x.scales, i, &mut floats);
        }
        if !rest.is_empty() {
            let mut last = [0u8; BLOCK / 2];
            last[..rest.len()].copy_from_slice(rest);
            products(nibble_words(&last, table), &x.by_nibble, &x.scales, first + whole.len(), &mut floats);
        }
        *sums = floats;
    };
    all_rows(x, add, to);
}

/// Adds the products of a block with each vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn products<const M: usize>(w: [__m512i; 4], words: &[Words], scales: &[f32], i: usize, sums: &mut [__m512; M]) {
    let (words, scales) = (&words[i * M..][..M], &scales[i * M..][..M]);
    for v in 0..M {
        sums[v] = _mm512_fmadd_ps(block::<M>(w, &words[v]), _mm512_set1_ps(scales[v]), sums[v]);
    }
}

/// Sums across lanes, four rows at a time; `add(row, blocks, sums)` adds the products of some blocks of a row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn all_rows<const M: usize>(x: &Group, add: impl Fn(usize, Range<usize>, &mut [__m512; M]), to: &mut Results<'_>) {
    // One vector fits L1, and rows are best read from their start to their end.
    let step = if M == 1 { x.blocks } else { NEAR };
    for first in (0..to.count).step_by(4) {
        let n = (to.count - first).min(4);
        let mut sums = [[_mm512_setzero_ps(); M]; 4];
        for start in (0..x.blocks).step_by(step) {
            for (r, sums) in sums.iter_mut().enumerate().take(n) {
                add(first + r, start..(start + step).min(x.blocks), sums);
            }
        }
        let [a, b, c, d] = sums;
        for v in 0..x.count.min(M) {
            let totals = sum_lanes4([a[v], b[v], c[v], d[v]]);
            let out = &mut to.out[(x.first + v) * to.n + to.at + first..][..n];
            out.iter_mut().zip(totals).for_each(|(o, total)| *o = total * to.scale);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn tables<const WIDE: bool, const M: usize>(indices: &Packed<'_>, table: &[u8], x: &Group, to: &mut Results<'_>) {
    let (low, high) = byte_tables(table);
    let unpack = Unpack::new(indices.bits);
    // A block is 128 indices.
    let (half, size) = (unpack.size, 2 * unpack.size);
    let words = |i: &[u8]| look_up::<WIDE>(unpack.indices::<WIDE>(i), &low, &high);
    let entries = |i: &[u8]| {
        let ((a, b), (c, d)) = (words(i), words(&i[half..]));
        [a, b, c, d]
    };
    let add = |r: usize, blocks: Range<usize>, sums: &mut [__m512; M]| {
        let whole = indices.part(r, &blocks).chunks_exact(size);
        let (rest, last_block) = (whole.remainder(), blocks.end - 1);
        let mut floats = *sums;
        for (i, packed) in blocks.zip(whole) {
            ahead(packed.as_ptr());
            ahead(packed[half..].as_ptr());
            products(entries(packed), &x.by_lane, &x.scales, i, &mut floats);
        }
        if !rest.is_empty() {
            let mut last = [0u8; BLOCK];
            last[..rest.len()].copy_from_slice(rest);
            products(entries(&last[..size]), &x.by_lane, &x.scales, last_block, &mut floats);
        }
        *sums = floats;
    };
    all_rows(x, add, to);
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
