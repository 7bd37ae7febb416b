//! Palettized rows as i16 values, looked up in registers.

use std::arch::x86_64::*;

use super::{BLOCK, LANES};
use crate::matvec::avx512::{Unpack, byte_tables, look_up, table};
use crate::matvec::vnni_i16::{nibble_words, words};
use crate::weight_matrix::Lut;

/// A table in registers.
pub(super) struct LookUp {
    bits: usize,
    pub(super) scale: f32,
    unpack: Unpack,
    /// The low and the high bytes of all words; for four bits the words themselves.
    low: [__m512i; 4],
    high: [__m512i; 4],
}

impl LookUp {
    /// None when an entry is not finite.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    pub(super) fn new(l: &Lut<'_>, group: usize) -> Option<Self> {
        let mut entries = [0i16; 256];
        let scale = words(table(l, group), &mut entries)?;
        let bits = l.bits as usize;
        // SAFETY: an array of words, read as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), 2 << bits) };
        let (low, high) = if bits == 4 {
            // SAFETY: 32 bytes are there. Twice, as `vpermw` reads five bits of an index.
            let table = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes[..32].as_ptr().cast()) });
            ([table; 4], [table; 4])
        } else {
            byte_tables(bytes)
        };
        Some(Self { bits, scale, unpack: Unpack::new(bits), low, high })
    }

    /// One row as words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    pub(super) fn row(&self, l: &Lut<'_>, row: usize, cols: usize, out: &mut [u32]) {
        let bytes = cols * self.bits / 8;
        let indices = &l.indices[row * bytes..][..bytes];
        match self.bits {
            4 => self.blocks(indices, out, |i| self.nibbles(i)),
            8 => self.blocks(indices, out, |i| self.tables::<true>(i)),
            _ => self.blocks(indices, out, |i| self.tables::<false>(i)),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn blocks(&self, indices: &[u8], out: &mut [u32], words: impl Fn(&[u8]) -> [__m512i; 4]) {
        let size = BLOCK * self.bits / 8;
        for (indices, out) in indices.chunks(size).zip(out.as_chunks_mut::<{ BLOCK / 2 }>().0) {
            let words = if indices.len() == size {
                words(indices)
            } else {
                // What follows the last column is multiplied by zeros.
                let mut last = [0u8; BLOCK];
                last[..indices.len()].copy_from_slice(indices);
                words(&last[..size])
            };
            for (out, words) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(words) {
                // SAFETY: room for 64 bytes.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words) };
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn nibbles(&self, indices: &[u8]) -> [__m512i; 4] {
        nibble_words(&indices.as_chunks().0[0], self.low[0])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn tables<const WIDE: bool>(&self, indices: &[u8]) -> [__m512i; 4] {
        let half = |i: &[u8]| look_up::<WIDE>(self.unpack.indices::<WIDE>(i), &self.low, &self.high);
        let ((a, b), (c, d)) = (half(indices), half(&indices[self.unpack.size..]));
        [a, b, c, d]
    }
}
