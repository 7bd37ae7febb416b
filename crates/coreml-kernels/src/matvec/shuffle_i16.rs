//! Palettized, block-quantized and fp16 weights times a vector, on instruction sets with byte shuffles in 128-bit lanes
//! (AVX2, NEON, WebAssembly).
//!
//! Tables and integers are multiplied in 16-bit fixed point, for vectors that a model keeps in fp16 anyway, with the rounding
//! and the error bound of the AVX-512 kernel: the vector is rounded to 16 bits in blocks of [`BLOCK`] elements that share a
//! scale, table entries to 14 bits; with `a` the largest element of a block and `t` the largest entry, the error is at most
//! `2⁻¹⁶ · a · Σ|w| + 2⁻¹³ · t · Σ|x|`. The low and high bytes of 16-bit entries are looked up apart and interleaved.
//! Products are summed exactly: eight of `|w| < 2¹³`, `|x| < 2¹⁵` fit 32 bits, then they are scaled and added as `f32`.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Input, dot_rows, expand_and_dot, subtract_offsets};
use crate::expand::{expand_row, unpack};
use crate::simd::{Bytes, Vector};
use crate::weight_matrix::{Blocks, Lut, Storage, WeightMatrix};

mod rounded;

pub(super) use rounded::Rounded;
use rounded::{WHOLE, Words};

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

/// Scales of one row of integers in blocks.
struct BlockScales<'a> {
    all: &'a [f32],
    block_cols: usize,
}

impl Scales for BlockScales<'_> {
    const QUARTERS: bool = true;

    #[inline(always)]
    fn quarters(&self, block: usize, x: f32) -> [f32; BLOCK / SCALED] {
        if self.block_cols == SCALED {
            let [a, b, c, d] = self.all.as_chunks().0[block];
            [a * x, b * x, c * x, d * x]
        } else {
            [self.all[block * BLOCK / self.block_cols] * x; BLOCK / SCALED]
        }
    }
}

/// Some rows of a matrix.
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
                table_rows::<B>(weight, &l, first, input.x, x, out);
            }
            (Storage::Blocks(b), Some(x)) if holds(&b, cols) => block_rows::<B>(&b, first, input.x, x, out),
            (Storage::F16(bytes), _) => {
                for (r, o) in out.iter_mut().enumerate() {
                    *o = dot_f16::<V>(&bytes[(first + r) * cols * 2..][..cols * 2], input.x);
                }
            }
            _ => dot_rows(weight, first, input.x, out, |row, out| expand_row(weight, row, out)),
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
    whole_x: &[f32],
    x: &Rounded,
    out: &mut [f32],
) {
    let row_bytes = weight.cols * l.bits as usize / 8;
    let mut done = 0;
    while done < out.len() {
        let row = first + done;
        let group = row / l.group_rows;
        let n = ((group + 1) * l.group_rows - row).min(out.len() - done);
        let out = &mut out[done..done + n];
        done += n;
        let Some(table) = Table::new(l, group) else {
            expand_and_dot(weight, row, whole_x, out);
            continue;
        };
        // SAFETY: the caller's contract.
        let (low, high) = unsafe { table.bytes::<B>() };
        for (r, o) in out.iter_mut().enumerate() {
            let indices = &l.indices[(row + r) * row_bytes..][..row_bytes];
            // SAFETY: the caller's contract.
            let sum = unsafe {
                match l.bits {
                    1 => indexed::<B, 1>(indices, low, high, x),
                    2 => indexed::<B, 2>(indices, low, high, x),
                    3 => indexed::<B, 3>(indices, low, high, x),
                    4 => nibbles::<B, _>(indices, low[0], high[0], x, &NoScales),
                    6 => indexed::<B, 6>(indices, low, high, x),
                    _ => bytes_by_loads::<B>(indices, &table, x),
                }
            };
            *o = sum * table.scale;
        }
    }
}

/// Four-bit indices of one row, with the scales of the quarters of each block.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn nibbles<B: Bytes, S: Scales>(packed: &[u8], low: B, high: B, x: &Rounded, scales: &S) -> f32 {
    let (whole, rest) = packed.as_chunks::<{ BLOCK / 2 }>();
    // Whatever the indices behind the end are, the vector has zeros there.
    let mut last = [0u8; BLOCK / 2];
    last[..rest.len()].copy_from_slice(rest);
    // SAFETY: the caller's contract; a block has 64 bytes of indices and 128 integers of the vector, and a step of four
    // registers of integers takes one of indices.
    unsafe {
        let mut sum = B::zero_floats();
        for (i, words) in x.by_nibble.iter().enumerate().take(packed.len().div_ceil(BLOCK / 2)) {
            let packed = whole.get(i).unwrap_or(&last).as_ptr();
            let (x_block, scales) = (words.0.as_ptr(), scales.quarters(i, x.scales[i]));
            for s in 0..4 / B::LANES {
                let at = packed.add(16 * B::LANES * s);
                B::fetch(at.wrapping_add(AHEAD));
                let v = B::load(at);
                let (even, odd) = (v.low_nibbles(), v.high_nibbles());
                let even = B::interleave(low.look_up(even), high.look_up(even));
                let odd = B::interleave(low.look_up(odd), high.look_up(odd));
                let sums = four_products::<B>(even, odd, x_block.add(32 * B::LANES * s));
                sum = if S::QUARTERS {
                    B::add_scaled(sum, sums, scales.as_ptr().add(s * B::LANES))
                } else {
                    B::add_scaled_all(sum, sums, scales[0])
                };
            }
        }
        B::total(sum)
    }
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

/// Indices of one row that are unpacked to bytes first.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn indexed<B: Bytes, const BITS: u32>(packed: &[u8], low: [B; 4], high: [B; 4], x: &Rounded) -> f32 {
    let mut buffer = [0u8; UNPACKED];
    // SAFETY: the caller's contract; a step of four registers of integers takes two of indices.
    unsafe {
        let mut sum = B::zero_floats();
        for (chunk, packed) in packed.chunks(UNPACKED * BITS as usize / 8).enumerate() {
            unpack(packed, BITS, &mut buffer);
            for block in 0..(packed.len() * 8 / BITS as usize).div_ceil(BLOCK) {
                let i = chunk * (UNPACKED / BLOCK) + block;
                let (indices, x_block) = (buffer.as_ptr().add(block * BLOCK), x.by_lane[i].0.as_ptr());
                for s in 0..4 / B::LANES {
                    let from = indices.add(32 * B::LANES * s);
                    let front = entries::<B, BITS>(low, high, B::load(from));
                    let back = entries::<B, BITS>(low, high, B::load(from.add(16 * B::LANES)));
                    let sums = four_products::<B>(front, back, x_block.add(32 * B::LANES * s));
                    sum = B::add_scaled_all(sum, sums, x.scales[i]);
                }
            }
        }
        B::total(sum)
    }
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
unsafe fn bytes_by_loads<B: Bytes>(indices: &[u8], table: &Table, x: &Rounded) -> f32 {
    let mut words = [Words([0; BLOCK]), Words([0; BLOCK])];
    // SAFETY: the caller's contract.
    unsafe {
        let mut sum = B::zero_floats();
        // Two blocks at a time: loads of integers that were just stored one by one would wait for them.
        for (pair, indices) in indices.chunks(2 * BLOCK).enumerate() {
            for (words, indices) in words.iter_mut().zip(indices.chunks(BLOCK)) {
                for (w, &i) in words.0.iter_mut().zip(indices) {
                    *w = table.words[usize::from(i)];
                }
            }
            for (block, words) in words.iter().enumerate().take(indices.len().div_ceil(BLOCK)) {
                let i = 2 * pair + block;
                let x_block = x.plain[i].0.as_ptr();
                for s in 0..4 / B::LANES {
                    let mut sums = B::zero();
                    for k in 0..4 {
                        let at = 8 * B::LANES * (4 * s + k);
                        let words = B::load(words.0.as_ptr().add(at).cast());
                        sums = B::add_products(sums, words, x_block.add(at));
                    }
                    sum = B::add_scaled_all(sum, sums, x.scales[i]);
                }
            }
        }
        B::total(sum)
    }
}

/// Whether [`block_rows`] can work on integers in such blocks.
fn holds(b: &Blocks<'_>, cols: usize) -> bool {
    cols.is_multiple_of(BLOCK) && (b.block_cols == SCALED || b.block_cols.is_multiple_of(BLOCK))
}

/// Rows of integers in blocks, which are 16-bit integers as they are: `Σ scale · (Σ q · x − offset · Σ x)`.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn block_rows<B: Bytes>(b: &Blocks<'_>, first: usize, whole_x: &[f32], x: &Rounded, out: &mut [f32]) {
    const SIGNED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff];
    const SIGNS: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    const UNSIGNED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let (cols, per_row) = (whole_x.len(), whole_x.len() / b.block_cols);
    let bytes = cols * b.bits as usize / 8;
    // SAFETY: the caller's contract; 16 bytes each.
    let (low, high) = unsafe {
        let tables = if b.signed { (SIGNED, SIGNS) } else { (UNSIGNED, [0; 16]) };
        (B::broadcast(tables.0.as_ptr()), B::broadcast(tables.1.as_ptr()))
    };
    for (r, o) in out.iter_mut().enumerate() {
        let integers = &b.data[(first + r) * bytes..][..bytes];
        let all = &b.scale[(first + r) / b.block_rows * per_row..][..per_row];
        let scales = BlockScales { all, block_cols: b.block_cols };
        // SAFETY: the caller's contract.
        *o = unsafe {
            match (b.bits, b.signed) {
                (4, _) => nibbles::<B, _>(integers, low, high, x, &scales),
                (_, true) => eight_bits::<B, true>(integers, x, &scales),
                (_, false) => eight_bits::<B, false>(integers, x, &scales),
            }
        };
    }
    subtract_offsets(b, first, whole_x, out);
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn eight_bits<B: Bytes, const SIGNED: bool>(integers: &[u8], x: &Rounded, scales: &impl Scales) -> f32 {
    // SAFETY: the caller's contract; a quarter of a block has 32 integers.
    unsafe {
        let mut sum = B::zero_floats();
        for (i, integers) in integers.as_chunks::<BLOCK>().0.iter().enumerate() {
            let x_block = x.by_lane[i].0.as_ptr();
            for (q, &scale) in scales.quarters(i, x.scales[i]).iter().enumerate() {
                let mut sums = B::zero();
                for v in 0..2 / B::LANES {
                    let at = SCALED * q + 16 * B::LANES * v;
                    let from = integers.as_ptr().add(at);
                    B::fetch(from.wrapping_add(AHEAD));
                    let bytes = B::load(from);
                    let (a, b) = if SIGNED { bytes.widen_signed() } else { bytes.widen_unsigned() };
                    sums = B::add_products(sums, a, x_block.add(at));
                    sums = B::add_products(sums, b, x_block.add(at + 8 * B::LANES));
                }
                sum = B::add_scaled_all(sum, sums, scale);
            }
        }
        B::total(sum)
    }
}

/// A row of fp16 elements times the vector, in four registers of sums.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn dot_f16<V: Vector>(row: &[u8], x: &[f32]) -> f32 {
    let step = 4 * V::LANES;
    let whole = x.len() / step * step;
    // SAFETY: the caller's contract; both have the elements that are read.
    let sum = unsafe {
        let mut sums = [V::splat(0.0); 4];
        for k in (0..whole).step_by(step) {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = k + i * V::LANES;
                *sum = sum.add_product(V::load_f16(row.as_ptr().add(2 * at)), V::load(x.as_ptr().add(at)));
            }
        }
        let [a, b, c, d] = sums;
        let mut lanes = [0f32; 16];
        a.plus(b).plus(c.plus(d)).store(lanes.as_mut_ptr());
        lanes[..V::LANES].iter().sum::<f32>()
    };
    let rest = row[2 * whole..].as_chunks::<2>().0.iter().zip(&x[whole..]);
    sum + rest.map(|(&w, x)| f16::from_le_bytes(w).to_f32() * x).sum::<f32>()
}
