//! The vectors of a product in 16-bit fixed point, in the orders in which weights are decoded.

use std::arch::x86_64::*;

use super::BLOCK;
use crate::isa::Isa;
use crate::matvec::{Orders, WIDTH, places};

/// Vectors as i16 blocks, in the orders of unpacked indices.
pub(in crate::matvec) struct Fixed {
    pub(super) groups: Vec<Group>,
}

/// Vectors that are multiplied by the same weights at once.
pub(super) struct Group {
    /// Vectors before it, and in it.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Places: 1, 2, 4 or 8; those without a vector are zero.
    pub(super) width: usize,
    pub(super) blocks: usize,
    /// Scale of each block and place: an element is its i16 value times this.
    pub(super) scales: Vec<f32>,
    /// Column `4·j + s` of a block is at `32·s + j` (4-bit indices).
    pub(super) by_nibble: Vec<Words>,
    /// Each half block in the order of `unpack{lo,hi}_epi8` (other widths).
    pub(super) by_lane: Vec<Words>,
    /// In natural order (8-bit integers).
    pub(super) plain: Vec<Words>,
}

/// A block of a vector, aligned to a cache line.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Words(pub(super) [i16; BLOCK]);

impl Fixed {
    /// `None` if there is no element, one is not finite or the CPU lacks the variant.
    pub(in crate::matvec) fn new(x: &[f32], count: usize, orders: Orders) -> Option<Self> {
        if !Isa::Avx512Vbmi.enabled() || x.is_empty() {
            return None;
        }
        let cols = x.len() / count;
        let group = |(i, x): (usize, &[f32])| {
            let mut group = Group::new(i * WIDTH, x.len() / cols, cols, orders);
            let finite = x.chunks_exact(cols).enumerate().all(|(i, x)| {
                // SAFETY: the instruction set is enabled.
                unsafe { group.fill(i, x) }
            });
            finite.then_some(group)
        };
        let groups = x.chunks(WIDTH * cols).enumerate().map(group);
        Some(Self { groups: groups.collect::<Option<_>>()? })
    }
}

impl Group {
    fn new(first: usize, count: usize, cols: usize, orders: Orders) -> Self {
        let (width, blocks) = (places(count), cols.div_ceil(BLOCK));
        let room = |wanted: bool| vec![Words([0; BLOCK]); if wanted { width * blocks } else { 0 }];
        Self {
            first,
            count,
            width,
            blocks,
            scales: vec![0.0; width * blocks],
            by_nibble: room(orders.nibble),
            by_lane: room(orders.lane),
            plain: room(orders.plain),
        }
    }

    /// Rounds a vector into its place; false if an element is not finite.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    fn fill(&mut self, place: usize, x: &[f32]) -> bool {
        let (blocks, rest) = x.as_chunks::<BLOCK>();
        // Zero padding, so that indices there have no effect.
        let mut last = [0f32; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        for (i, x) in blocks.iter().chain([&last]).take(self.blocks).enumerate() {
            // Finite magnitudes compare like their bits; infinity and NaN are above them.
            let top = f32::from_bits(x.iter().fold(0, |top, v| top.max(v.to_bits() & 0x7fff_ffff)));
            if !top.is_finite() {
                return false;
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
            let at = i * self.width + place;
            self.scales[at] = scale;
            if let Some(to) = self.by_nibble.get_mut(at) {
                *to = by_nibble(words);
            }
            if let Some(to) = self.by_lane.get_mut(at) {
                *to = by_lane(words);
            }
            if let Some(to) = self.plain.get_mut(at) {
                *to = store(words);
            }
        }
        true
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
