//! Palettized, block-quantized and fp16 weights times one vector or several, on instruction sets with byte shuffles in
//! 128-bit lanes (AVX2, NEON, WebAssembly).
//!
//! Tables and integers are multiplied in 16-bit fixed point, for vectors that a model keeps in fp16 anyway, with the rounding
//! and the error bound of the AVX-512 kernel: the vector is rounded to 16 bits in blocks of [`BLOCK`] elements that share a
//! scale, table entries to 14 bits; with `a` the largest element of a block and `t` the largest entry, the error is at most
//! `2⁻¹⁶ · a · Σ|w| + 2⁻¹³ · t · Σ|x|`. The low and high bytes of 16-bit entries are looked up apart and interleaved.
//! Products are summed exactly: eight of `|w| < 2¹³`, `|x| < 2¹⁵` fit 32 bits, then they are scaled and added as `f32`.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Input, NEAR, Results, WIDTH, dot_rows, each, expand_and_dot};
use crate::expand::{expand_row, unpack};
use crate::simd::{Bytes, Vector};
use crate::weight_matrix::{Lut, Storage, WeightMatrix};

mod halves;
mod integers;
mod rounded;

use halves::dot_f16;
use integers::block_rows;
pub(super) use integers::holds;
pub(super) use rounded::Rounded;
use rounded::{Group, WHOLE, Words};

/// Elements of the vector that share a scale.
const BLOCK: usize = 128;
/// Columns that share a scale where a block has several.
const SCALED: usize = 32;
/// Distance at which weights are fetched, in bytes: rows follow each other in memory, and the hardware's own prefetching
/// stops at the end of each page.
const AHEAD: usize = 8192;
/// Indices that are unpacked at a time; a multiple of [`BLOCK`].
const UNPACKED: usize = 4 * BLOCK;

/// A table as 16-bit integers below 2¹³ and their scale.
struct Table {
    words: [i16; 256],
    scale: f32,
}

impl Table {
    /// None when an entry is not finite.
    fn new(l: &Lut<'_>, group: usize) -> Option<Self> {
        let count = 1usize << l.bits;
        let bytes = l.tables[group * count * 2..][..count * 2].as_chunks::<2>().0;
        let (mut halves, mut values) = ([f16::ZERO; 256], [0f32; 256]);
        halves.iter_mut().zip(bytes).for_each(|(h, &b)| *h = f16::from_le_bytes(b));
        let top = halves[..count].iter().fold(0, |top, h| top.max(h.to_bits() & 0x7fff));
        if top >= f16::INFINITY.to_bits() {
            return None;
        }
        halves[..count].convert_to_f32_slice(&mut values[..count]);
        // 2^(exponent − 12): the largest entry lies between 2¹² and 2¹³. Subnormal entries count as the least exponent.
        let exponent = i32::from(top >> 10).max(1) - 15;
        let scale = f32::from_bits(((exponent - 12 + 127) as u32) << 23);
        let inverse = f32::from_bits(((12 - exponent + 127) as u32) << 23);
        Some(Self { words: values.map(|v| (v * inverse + WHOLE).to_bits() as i16), scale })
    }

    /// Low and high bytes, sixteen entries to a register.
    ///
    /// # Safety
    /// As [`rows`].
    #[inline(always)]
    unsafe fn bytes<B: Bytes>(&self) -> ([B; 4], [B; 4]) {
        let (mut low, mut high) = ([0u8; 64], [0u8; 64]);
        for ((low, high), word) in low.iter_mut().zip(&mut high).zip(&self.words) {
            [*low, *high] = word.to_le_bytes();
        }
        // SAFETY: the caller's contract.
        unsafe { (broadcasts::<B>(&low), broadcasts::<B>(&high)) }
    }
}

/// Sixteen bytes to a register.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
pub(crate) unsafe fn broadcasts<B: Bytes>(bytes: &[u8; 64]) -> [B; 4] {
    let at = bytes.as_ptr();
    // SAFETY: the caller's contract; 64 bytes are there.
    unsafe { [B::broadcast(at), B::broadcast(at.add(16)), B::broadcast(at.add(32)), B::broadcast(at.add(48))] }
}

/// The scales of the quarters of each block of a row. Closures would not do: their bodies are compiled without the
/// instruction set of the function that they end up in, unless they are inlined.
trait Scales {
    /// Whether the quarters of a block may have scales of their own.
    const QUARTERS: bool;
    /// Of a block of the vector with this scale.
    fn quarters(&self, block: usize, x: f32) -> [f32; BLOCK / SCALED];
}

/// A table has one scale, which is applied at the end.
struct NoScales;

impl Scales for NoScales {
    const QUARTERS: bool = false;

    #[inline(always)]
    fn quarters(&self, _block: usize, x: f32) -> [f32; BLOCK / SCALED] {
        [x; BLOCK / SCALED]
    }
}

/// Some rows of a matrix times all vectors.
///
/// # Safety
/// The CPU has the instruction sets of `B` and `V`.
#[inline(always)]
pub(super) unsafe fn rows<B: Bytes, V: Vector>(
    weight: &WeightMatrix<'_>,
    first: usize,
    input: &Input<'_>,
    out: &mut [f32],
) {
    let cols = weight.cols;
    // SAFETY: the caller's contract, here and below.
    unsafe {
        match (weight.form, &input.rounded) {
            (Storage::Lut(l), Some(x)) if (cols * l.bits as usize).is_multiple_of(8) => {
                table_rows::<B>(weight, &l, first, input, x, out);
            }
            (Storage::Blocks(b), Some(x)) if holds(&b, cols) => block_rows::<B>(&b, first, input, x, out),
            (Storage::F16(bytes), _) => {
                let n = out.len() / input.count;
                for r in 0..n {
                    let row = &bytes[(first + r) * cols * 2..][..cols * 2];
                    let mut i = 0;
                    while i < input.count {
                        let x = &input.x[i * cols..];
                        // Sixteen registers hold the sums of three.
                        i += match input.count - i {
                            1 => put(out, i * n + r, n, dot_f16::<V, 1>(row, x)),
                            2 | 4 => put(out, i * n + r, n, dot_f16::<V, 2>(row, x)),
                            _ => put(out, i * n + r, n, dot_f16::<V, 3>(row, x)),
                        };
                    }
                }
            }
            _ => each(input, out, |x, out| {
                dot_rows(weight, first, x, out, |row, out| expand_row(weight, row, out));
            }),
        }
    }
}

/// Writes results `step` apart; how many.
#[inline(always)]
pub(super) fn put<const M: usize>(out: &mut [f32], first: usize, step: usize, sums: [f32; M]) -> usize {
    sums.into_iter().enumerate().for_each(|(i, sum)| out[first + i * step] = sum);
    M
}

/// Rows whose sums are kept while a part of the vectors stays in L1.
const ROWS: usize = 8;

/// Rows of one stored form. Closures would not do: see [`Scales`].
trait Rows<B: Bytes> {
    /// Adds the products of row `row` from block `block` on, `cols` of them, with a group of `M` vectors.
    ///
    /// # Safety
    /// As [`rows`].
    unsafe fn add<const M: usize>(&self, row: usize, block: usize, cols: usize, x: &Group, sums: &mut [B::Floats; M]);
}

/// All vectors times `to.count` rows.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn multiply<B: Bytes>(rows: &impl Rows<B>, cols: usize, x: &Rounded, to: &mut Results<'_>) {
    for group in &x.groups {
        // SAFETY: the caller's contract.
        unsafe {
            match group.width {
                1 => multiply_group::<B, 1>(rows, cols, group, to),
                2 => multiply_group::<B, 2>(rows, cols, group, to),
                4 => multiply_group::<B, 4>(rows, cols, group, to),
                _ => multiply_group::<B, WIDTH>(rows, cols, group, to),
            }
        }
    }
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn multiply_group<B: Bytes, const M: usize>(rows: &impl Rows<B>, cols: usize, x: &Group, to: &mut Results<'_>) {
    // One vector fits L1, and rows are best read from their start to their end.
    let step = if M == 1 { cols.max(1) } else { NEAR * BLOCK };
    for first in (0..to.count).step_by(ROWS) {
        let n = ROWS.min(to.count - first);
        // SAFETY: the caller's contract, here and below.
        let mut sums = unsafe { [[B::zero_floats(); M]; ROWS] };
        for start in (0..cols).step_by(step) {
            for (r, sums) in sums.iter_mut().enumerate().take(n) {
                // SAFETY: as above.
                unsafe { rows.add(first + r, start / BLOCK, step.min(cols - start), x, sums) };
            }
        }
        for (r, sums) in sums.iter().enumerate().take(n) {
            for (i, &sum) in sums.iter().enumerate().take(x.count) {
                // SAFETY: as above.
                let total = unsafe { B::total(sum) };
                to.out[(x.first + i) * to.n + to.at + first + r] = total * to.scale;
            }
        }
    }
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn table_rows<B: Bytes>(
    weight: &WeightMatrix<'_>,
    l: &Lut<'_>,
    first: usize,
    input: &Input<'_>,
    x: &Rounded,
    out: &mut [f32],
) {
    let n = out.len() / input.count;
    let row_bytes = weight.cols * l.bits as usize / 8;
    let mut at = 0;
    while at < n {
        let row = first + at;
        let group = row / l.group_rows;
        let count = ((group + 1) * l.group_rows - row).min(n - at);
        match Table::new(l, group) {
            Some(table) => {
                // SAFETY: the caller's contract.
                let (low, high) = unsafe { table.bytes::<B>() };
                let indices = &l.indices[row * row_bytes..][..count * row_bytes];
                let rows = TableRows { bits: l.bits as usize, indices, row_bytes, table: &table, low, high };
                let mut to = Results { out: &mut *out, n, at, count, scale: table.scale };
                // SAFETY: the caller's contract.
                unsafe { multiply(&rows, weight.cols, x, &mut to) };
            }
            None => each(input, out, |x, out| expand_and_dot(weight, row, x, &mut out[at..at + count])),
        }
        at += count;
    }
}

/// Rows of indices into one table.
struct TableRows<'a, B> {
    bits: usize,
    indices: &'a [u8],
    row_bytes: usize,
    table: &'a Table,
    low: [B; 4],
    high: [B; 4],
}

impl<B: Bytes> Rows<B> for TableRows<'_, B> {
    #[inline(always)]
    unsafe fn add<const M: usize>(&self, row: usize, block: usize, cols: usize, x: &Group, sums: &mut [B::Floats; M]) {
        let start = row * self.row_bytes + block * BLOCK * self.bits / 8;
        let indices = &self.indices[start..][..cols * self.bits / 8];
        let (low, high) = (self.low, self.high);
        // SAFETY: the caller's contract.
        unsafe {
            match self.bits {
                1 => indexed::<B, 1, M>(indices, low, high, block, x, sums),
                2 => indexed::<B, 2, M>(indices, low, high, block, x, sums),
                3 => indexed::<B, 3, M>(indices, low, high, block, x, sums),
                4 => nibbles::<B, _, M>(indices, low[0], high[0], block, x, &NoScales, sums),
                6 => indexed::<B, 6, M>(indices, low, high, block, x, sums),
                _ => bytes_by_loads::<B, M>(indices, self.table, block, x, sums),
            }
        }
    }
}

/// The scales of a block for each of `M` vectors.
#[inline(always)]
fn quarters<S: Scales, const M: usize>(scales: &S, block: usize, x: &Group) -> [[f32; BLOCK / SCALED]; M] {
    let mut all = [[0.0; BLOCK / SCALED]; M];
    for (all, &x) in all.iter_mut().zip(&x.scales[block * M..][..M]) {
        *all = scales.quarters(block, x);
    }
    all
}

/// Four-bit indices of a part of a row, with the scales of the quarters of each block.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn nibbles<B: Bytes, S: Scales, const M: usize>(
    packed: &[u8],
    low: B,
    high: B,
    block: usize,
    x: &Group,
    scales: &S,
    sums: &mut [B::Floats; M],
) {
    let (whole, rest) = packed.as_chunks::<{ BLOCK / 2 }>();
    // Whatever the indices behind the end are, the vectors have zeros there.
    let mut last = [0u8; BLOCK / 2];
    last[..rest.len()].copy_from_slice(rest);
    let mut floats = *sums;
    for (i, words) in (block..).zip(x.by_nibble[block * M..].chunks_exact(M)).take(packed.len().div_ceil(BLOCK / 2)) {
        let packed = whole.get(i - block).unwrap_or(&last).as_ptr();
        let (words, scales) = (words.as_ptr().cast::<i16>(), quarters::<S, M>(scales, i, x));
        for s in 0..4 / B::LANES {
            // SAFETY: the caller's contract; a block has 64 bytes of indices and 128 integers of each vector, and a step of
            // four registers of integers takes one of indices.
            unsafe {
                let at = packed.add(16 * B::LANES * s);
                B::fetch(at.wrapping_add(AHEAD));
                let v = B::load(at);
                let (even, odd) = (v.low_nibbles(), v.high_nibbles());
                let even = B::interleave(low.look_up(even), high.look_up(even));
                let odd = B::interleave(low.look_up(odd), high.look_up(odd));
                for v in 0..M {
                    let exact = four_products::<B>(even, odd, words.add(v * BLOCK + 32 * B::LANES * s));
                    floats[v] = if S::QUARTERS {
                        B::add_scaled(floats[v], exact, scales[v].as_ptr().add(s * B::LANES))
                    } else {
                        B::add_scaled_all(floats[v], exact, scales[v][0])
                    };
                }
            }
        }
    }
    *sums = floats;
}

/// The products of four registers of integers, which is as many as 32 bits hold the sums of.
///
/// # Safety
/// As [`rows`]; `32 · LANES` integers from `x` on.
#[inline(always)]
unsafe fn four_products<B: Bytes>((a, b): (B, B), (c, d): (B, B), x: *const i16) -> B::Sums {
    // SAFETY: the caller's contract.
    unsafe {
        let sums = B::add_products(B::zero(), a, x);
        let sums = B::add_products(sums, b, x.add(8 * B::LANES));
        let sums = B::add_products(sums, c, x.add(16 * B::LANES));
        B::add_products(sums, d, x.add(24 * B::LANES))
    }
}

/// Indices of a part of a row that are unpacked to bytes first.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn indexed<B: Bytes, const BITS: u32, const M: usize>(
    packed: &[u8],
    low: [B; 4],
    high: [B; 4],
    block: usize,
    x: &Group,
    sums: &mut [B::Floats; M],
) {
    let mut buffer = [0u8; UNPACKED];
    let mut floats = *sums;
    for (chunk, packed) in packed.chunks(UNPACKED * BITS as usize / 8).enumerate() {
        unpack(packed, BITS, &mut buffer);
        let first = block + chunk * (UNPACKED / BLOCK);
        for k in 0..(packed.len() * 8 / BITS as usize).div_ceil(BLOCK) {
            let (i, indices) = (first + k, buffer[k * BLOCK..][..BLOCK].as_ptr());
            let words = x.by_lane[i * M..][..M].as_ptr().cast::<i16>();
            let scales = &x.scales[i * M..][..M];
            for s in 0..4 / B::LANES {
                // SAFETY: the caller's contract; a step of four registers of integers takes two of indices.
                unsafe {
                    let from = indices.add(32 * B::LANES * s);
                    let front = entries::<B, BITS>(low, high, B::load(from));
                    let back = entries::<B, BITS>(low, high, B::load(from.add(16 * B::LANES)));
                    for v in 0..M {
                        let exact = four_products::<B>(front, back, words.add(v * BLOCK + 32 * B::LANES * s));
                        floats[v] = B::add_scaled_all(floats[v], exact, scales[v]);
                    }
                }
            }
        }
    }
    *sums = floats;
}

/// The entries at a register of indices.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn entries<B: Bytes, const BITS: u32>(low: [B; 4], high: [B; 4], index: B) -> (B, B) {
    // SAFETY: the caller's contract.
    unsafe {
        if BITS == 6 {
            return B::interleave(B::look_up_64(low, index), B::look_up_64(high, index));
        }
        B::interleave(low[0].look_up(index), high[0].look_up(index))
    }
}

/// Indices of bytes into a table of 256 integers, each loaded by itself.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn bytes_by_loads<B: Bytes, const M: usize>(
    indices: &[u8],
    table: &Table,
    block: usize,
    x: &Group,
    sums: &mut [B::Floats; M],
) {
    let mut words = [Words([0; BLOCK]), Words([0; BLOCK])];
    let mut floats = *sums;
    // Two blocks at a time: loads of integers that were just stored one by one would wait for them.
    for (pair, indices) in indices.chunks(2 * BLOCK).enumerate() {
        for (words, indices) in words.iter_mut().zip(indices.chunks(BLOCK)) {
            for (w, &i) in words.0.iter_mut().zip(indices) {
                *w = table.words[usize::from(i)];
            }
        }
        for (k, words) in words.iter().enumerate().take(indices.len().div_ceil(BLOCK)) {
            let i = block + 2 * pair + k;
            let x_words = x.plain[i * M..][..M].as_ptr().cast::<i16>();
            let scales = &x.scales[i * M..][..M];
            for s in 0..4 / B::LANES {
                // SAFETY: the caller's contract; a block has 128 integers.
                unsafe {
                    let at = 32 * B::LANES * s;
                    let from = words.0.as_ptr().add(at);
                    let part = |k: usize| from.add(8 * B::LANES * k).cast();
                    let front = (B::load(part(0)), B::load(part(1)));
                    let back = (B::load(part(2)), B::load(part(3)));
                    for v in 0..M {
                        let exact = four_products::<B>(front, back, x_words.add(v * BLOCK + at));
                        floats[v] = B::add_scaled_all(floats[v], exact, scales[v]);
                    }
                }
            }
        }
    }
    *sums = floats;
}
