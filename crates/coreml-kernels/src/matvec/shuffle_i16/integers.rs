//! Integers in blocks times vectors: they are 16-bit integers as they are.

use super::rounded::{Group, Rounded};
use super::{AHEAD, BLOCK, Rows, SCALED, Scales, multiply, nibbles, quarters};
use crate::matvec::{Input, Results, each, subtract_offsets};
use crate::simd::Bytes;
use crate::weight_matrix::Blocks;

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

/// Whether [`block_rows`] can work on integers in such blocks.
pub(in crate::matvec) fn holds(b: &Blocks<'_>, cols: usize) -> bool {
    cols.is_multiple_of(BLOCK) && (b.block_cols == SCALED || b.block_cols.is_multiple_of(BLOCK))
}

/// Rows of integers in blocks, which are 16-bit integers as they are: `Σ scale · (Σ q · x − offset · Σ x)`.
///
/// # Safety
/// As [`super::rows`].
#[inline(always)]
pub(super) unsafe fn block_rows<B: Bytes>(
    b: &Blocks<'_>,
    first: usize,
    input: &Input<'_>,
    x: &Rounded,
    out: &mut [f32],
) {
    const SIGNED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff];
    const SIGNS: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    const UNSIGNED: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let n = out.len() / input.count;
    let cols = input.x.len() / input.count;
    // SAFETY: the caller's contract, here and below; 16 bytes each.
    unsafe {
        let tables = if b.signed { (SIGNED, SIGNS) } else { (UNSIGNED, [0; 16]) };
        let (low, high) = (B::broadcast(tables.0.as_ptr()), B::broadcast(tables.1.as_ptr()));
        let rows = BlockRows { b, first, cols, low, high };
        multiply(&rows, cols, x, &mut Results { out, n, at: 0, count: n, scale: 1.0 });
    }
    each(input, out, |x, out| subtract_offsets(b, first, x, out));
}

/// Rows of integers from `first` on.
struct BlockRows<'a, B> {
    b: &'a Blocks<'a>,
    first: usize,
    cols: usize,
    low: B,
    high: B,
}

impl<B: Bytes> Rows<B> for BlockRows<'_, B> {
    #[inline(always)]
    unsafe fn add<const M: usize>(&self, row: usize, block: usize, cols: usize, x: &Group, sums: &mut [B::Floats; M]) {
        let Self { b, cols: whole, low, high, .. } = *self;
        let (row, bits) = (self.first + row, b.bits as usize);
        let per_row = whole / b.block_cols;
        let integers = &b.data[row * (whole * bits / 8) + block * BLOCK * bits / 8..][..cols * bits / 8];
        let all = &b.scale[row / b.block_rows * per_row..][..per_row];
        let scales = BlockScales { all, block_cols: b.block_cols };
        // SAFETY: the caller's contract.
        unsafe {
            match (b.bits, b.signed) {
                (4, _) => nibbles::<B, _, M>(integers, low, high, block, x, &scales, sums),
                (_, true) => eight_bits::<B, true, M>(integers, block, x, &scales, sums),
                (_, false) => eight_bits::<B, false, M>(integers, block, x, &scales, sums),
            }
        }
    }
}

/// # Safety
/// As [`super::rows`].
#[allow(clippy::needless_range_loop, reason = "quarters are addressed by number")]
#[inline(always)]
unsafe fn eight_bits<B: Bytes, const SIGNED: bool, const M: usize>(
    integers: &[u8],
    block: usize,
    x: &Group,
    scales: &BlockScales<'_>,
    sums: &mut [B::Floats; M],
) {
    let mut floats = *sums;
    for (i, integers) in (block..).zip(integers.as_chunks::<BLOCK>().0) {
        let words = x.by_lane[i * M..][..M].as_ptr().cast::<i16>();
        let scales = quarters::<_, M>(scales, i, x);
        for q in 0..BLOCK / SCALED {
            // A quarter has 32 integers: two registers of words for each of bytes.
            let at = SCALED * q;
            // SAFETY: the caller's contract.
            unsafe {
                let from = integers.as_ptr().add(at);
                B::fetch(from.wrapping_add(AHEAD));
                let front = widened::<B, SIGNED>(B::load(from));
                // With one lane a quarter takes a second register.
                let back = if B::LANES == 1 { Some(widened::<B, SIGNED>(B::load(from.add(16)))) } else { None };
                for v in 0..M {
                    let x = words.add(v * BLOCK + at);
                    let mut exact = B::add_products(B::zero(), front.0, x);
                    exact = B::add_products(exact, front.1, x.add(8 * B::LANES));
                    if let Some((a, b)) = back {
                        exact = B::add_products(exact, a, x.add(16));
                        exact = B::add_products(exact, b, x.add(24));
                    }
                    floats[v] = B::add_scaled_all(floats[v], exact, scales[v][q]);
                }
            }
        }
    }
    *sums = floats;
}

/// # Safety
/// As [`super::rows`].
#[inline(always)]
unsafe fn widened<B: Bytes, const SIGNED: bool>(bytes: B) -> (B, B) {
    // SAFETY: the caller's contract.
    unsafe { if SIGNED { bytes.widen_signed() } else { bytes.widen_unsigned() } }
}
