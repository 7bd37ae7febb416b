//! AVX-512 variants (F, BW, VL, VBMI, VNNI) that look indices up in registers.
//!
//! 4 bits: a table of 16 `f32` fills one register; shifting a register of 128 packed indices right by 4·s bits leaves
//! the index of column 8·j + s in the low bits of lane j, the only ones `vpermps` reads; x is in that order. Other
//! widths: `vpermb` and `vpmultishiftqb` spread 64 indices to bytes, and byte look-ups give the low and high bytes of
//! the fp16 entries, which are interleaved and converted.

use std::arch::x86_64::*;

use super::shuffle_i16::{holds, put};
use super::{Input, each};
use crate::weight_matrix::{Blocks, Lut, Storage, WeightMatrix};

pub(super) fn rows(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
    // SAFETY: the variant is used only if its instruction set is enabled.
    unsafe { inner(weight, first, input, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn inner(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
    let aligned = |l: &Lut<'_>| (weight.cols * l.bits as usize).is_multiple_of(8);
    match weight.form {
        Storage::Lut(l)
            if aligned(&l)
                && let Some(x) = &input.fixed =>
        {
            super::vnni_i16::rows(weight, &l, first, input, x, out)
        }
        // Never with several vectors: those are there in fixed point.
        Storage::Lut(_) if input.count > 1 => {
            each(input, out, |x, out| super::expand_and_dot(weight, first, x, out));
        }
        Storage::Lut(l) if l.bits == 4 && aligned(&l) => nibbles(weight, &l, first, input, out),
        Storage::Lut(l) if aligned(&l) => tables(weight, &l, first, input, out),
        Storage::F16(bytes) => {
            let n = out.len() / input.count;
            for r in 0..n {
                let row = &bytes[(first + r) * weight.cols * 2..][..weight.cols * 2];
                let mut i = 0;
                while i < input.count {
                    let x = &input.x[i * weight.cols..];
                    i += match input.count - i {
                        1 => put(out, i * n + r, n, dot_f16::<1>(row, x)),
                        2 => put(out, i * n + r, n, dot_f16::<2>(row, x)),
                        3 => put(out, i * n + r, n, dot_f16::<3>(row, x)),
                        _ => put(out, i * n + r, n, dot_f16::<4>(row, x)),
                    };
                }
            }
        }
        Storage::Blocks(b)
            if let Some(x) = &input.fixed
                && holds(&b, weight.cols) =>
        {
            super::vnni_i16::block_rows(&b, first, input, x, out)
        }
        _ => each(input, out, |x, out| {
            super::dot_rows(weight, first, x, out, |row, out| expand_row(weight, row, out));
        }),
    }
}

/// Prefetch distance of weights in bytes: rows are consecutive in memory, but the hardware prefetcher stops at page
/// boundaries.
const AHEAD: usize = 8192;

/// Prefetches the line `AHEAD` bytes ahead.
#[inline(always)]
pub(super) fn ahead(at: *const u8) {
    fetch(at.wrapping_add(AHEAD));
}

/// Prefetches a line into L2.
#[inline(always)]
pub(crate) fn fetch(at: *const u8) {
    // SAFETY: a prefetch is a hint; no address is invalid for it.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// The rest of the row from column `done`, by the scalar definition.
#[inline(always)]
pub(super) fn tail(weight: &WeightMatrix<'_>, row: usize, done: usize, x: &[f32], buffer: &mut Vec<f32>) -> f32 {
    if done == weight.cols {
        return 0.0;
    }
    buffer.resize(weight.cols, 0.0);
    weight.expand_row(row, buffer);
    buffer[done..].iter().zip(&x[done..]).map(|(w, x)| w * x).sum()
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn nibbles(weight: &WeightMatrix<'_>, l: &Lut<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
    let blocks = weight.cols / 128;
    let mut buffer = Vec::new();
    let mut table = _mm512_setzero_ps();
    let mut group = usize::MAX;
    for (r, o) in out.iter_mut().enumerate() {
        let row = first + r;
        if row / l.group_rows != group {
            group = row / l.group_rows;
            let entries = &l.tables[group * 32..][..32];
            // SAFETY: 32 bytes are in bounds.
            table = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(entries.as_ptr().cast()) });
        }
        let indices = &l.indices[row * weight.cols / 2..][..blocks * 64];
        let x = &input.by_nibble[..blocks * 128];
        let mut sums = [_mm512_setzero_ps(); 4];
        for (i, x) in indices.as_chunks::<64>().0.iter().zip(x.as_chunks::<128>().0) {
            ahead(i.as_ptr());
            // SAFETY: 64 bytes are in bounds.
            let mut v = unsafe { _mm512_loadu_si512(i.as_ptr().cast()) };
            for (s, x) in x.as_chunks::<16>().0.iter().enumerate() {
                // SAFETY: 16 floats are in bounds.
                let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
                sums[s % 4] = _mm512_fmadd_ps(_mm512_permutexvar_ps(v, table), x, sums[s % 4]);
                v = _mm512_srli_epi32::<4>(v);
            }
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        *o = _mm512_reduce_add_ps(sum) + tail(weight, row, blocks * 128, input.x, &mut buffer);
    }
}

/// Low and high bytes of a table of up to 256 two-byte entries; short tables are repeated so that index bits beyond the
/// width have no effect.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub(crate) fn byte_tables(bytes: &[u8]) -> ([__m512i; 4], [__m512i; 4]) {
    let mut repeated = [0u8; 128];
    let bytes = if bytes.len() < 128 {
        repeated.chunks_exact_mut(bytes.len()).for_each(|part| part.copy_from_slice(bytes));
        &repeated
    } else {
        bytes
    };
    let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
    let join = |a: __m256i, b: __m256i| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
    for ((low, high), bytes) in low.iter_mut().zip(&mut high).zip(bytes.as_chunks::<128>().0) {
        // SAFETY: 128 bytes are in bounds.
        let (a, b) =
            unsafe { (_mm512_loadu_si512(bytes.as_ptr().cast()), _mm512_loadu_si512(bytes.as_ptr().add(64).cast())) };
        *low = join(_mm512_cvtepi16_epi8(a), _mm512_cvtepi16_epi8(b));
        *high = join(_mm512_cvtepi16_epi8(_mm512_srli_epi16::<8>(a)), _mm512_cvtepi16_epi8(_mm512_srli_epi16::<8>(b)));
    }
    (low, high)
}

/// The fp16 entries of one group.
pub(crate) fn table<'a>(l: &Lut<'a>, group: usize) -> &'a [u8] {
    let size = 2usize << l.bits;
    &l.tables[group * size..][..size]
}

/// Unpacking of 64 packed indices to bytes: source byte of each, and bit shifts within 64 bits.
pub(crate) struct Unpack {
    source: __m512i,
    shift: __m512i,
    mask: __mmask64,
    /// Bytes occupied by 64 indices.
    pub(crate) size: usize,
}

impl Unpack {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    pub(crate) fn new(bits: usize) -> Self {
        let (mut source, mut shift) = ([0u8; 64], [0u8; 64]);
        for i in 0..64 {
            source[i] = (i / 8 * bits + (i % 8).min(bits - 1)) as u8;
            shift[i] = (i % 8 * bits) as u8;
        }
        // SAFETY: arrays of 64 bytes.
        let (source, shift) =
            unsafe { (_mm512_loadu_si512(source.as_ptr().cast()), _mm512_loadu_si512(shift.as_ptr().cast())) };
        let mask: __mmask64 = if bits == 8 { u64::MAX } else { (1u64 << (8 * bits)) - 1 };
        Self { source, shift, mask, size: 8 * bits }
    }

    /// The first 64 indices; bits beyond their width are unspecified.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
    pub(crate) fn indices<const WIDE: bool>(&self, packed: &[u8]) -> __m512i {
        // SAFETY: `size` bytes are in bounds; the mask limits the load to them.
        let packed = unsafe { _mm512_maskz_loadu_epi8(self.mask, packed[..self.size].as_ptr().cast()) };
        if WIDE {
            return packed;
        }
        _mm512_multishift_epi64_epi8(self.shift, _mm512_permutexvar_epi8(self.source, packed))
    }
}

/// Looks up 64 two-byte entries, in two registers, for 64 indices in bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
pub(crate) fn look_up<const WIDE: bool>(index: __m512i, low: &[__m512i; 4], high: &[__m512i; 4]) -> (__m512i, __m512i) {
    let (lo, hi) = if WIDE {
        let top = _mm512_movepi8_mask(index);
        let pick = |t: &[__m512i; 4]| {
            let below = _mm512_permutex2var_epi8(t[0], index, t[1]);
            let above = _mm512_permutex2var_epi8(t[2], index, t[3]);
            _mm512_mask_blend_epi8(top, below, above)
        };
        (pick(low), pick(high))
    } else {
        (_mm512_permutexvar_epi8(index, low[0]), _mm512_permutexvar_epi8(index, high[0]))
    };
    (_mm512_unpacklo_epi8(lo, hi), _mm512_unpackhi_epi8(lo, hi))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn tables(weight: &WeightMatrix<'_>, l: &Lut<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
    if l.bits == 8 {
        table_rows::<true>(weight, l, first, input, out);
    } else {
        table_rows::<false>(weight, l, first, input, out);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn table_rows<const WIDE: bool>(
    weight: &WeightMatrix<'_>,
    l: &Lut<'_>,
    first: usize,
    input: &Input<'_>,
    out: &mut [f32],
) {
    let bits = l.bits as usize;
    let blocks = weight.cols / 64;
    let unpack = Unpack::new(bits);
    let mut buffer = Vec::new();
    let mut group = usize::MAX;
    let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
    for (r, o) in out.iter_mut().enumerate() {
        let row = first + r;
        if row / l.group_rows != group {
            group = row / l.group_rows;
            (low, high) = byte_tables(table(l, group));
        }
        let indices = &l.indices[row * weight.cols * bits / 8..][..blocks * 8 * bits];
        let x = &input.by_lane[..blocks * 64];
        let mut sums = [_mm512_setzero_ps(); 4];
        for (i, x) in indices.chunks_exact(8 * bits).zip(x.as_chunks::<64>().0) {
            ahead(i.as_ptr());
            let (a, b) = look_up::<WIDE>(unpack.indices::<WIDE>(i), &low, &high);
            let quarters = [
                _mm512_castsi512_si256(a),
                _mm512_extracti64x4_epi64::<1>(a),
                _mm512_castsi512_si256(b),
                _mm512_extracti64x4_epi64::<1>(b),
            ];
            for (k, (q, x)) in quarters.into_iter().zip(x.as_chunks::<16>().0).enumerate() {
                // SAFETY: 16 floats are in bounds.
                let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
                sums[k] = _mm512_fmadd_ps(_mm512_cvtph_ps(q), x, sums[k]);
            }
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        *o = _mm512_reduce_add_ps(sum) + tail(weight, row, blocks * 64, input.x, &mut buffer);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn dot_f16<const M: usize>(row: &[u8], x: &[f32]) -> [f32; M] {
    let cols = row.len() / 2;
    assert!(x.len() >= M * cols, "vectors");
    let (whole, rest) = row.as_chunks::<128>();
    let mut sums = [[_mm512_setzero_ps(); 4]; M];
    for (c, w) in whole.iter().enumerate() {
        ahead(w.as_ptr());
        ahead(w.as_ptr().wrapping_add(64));
        for k in 0..4 {
            // SAFETY: 32 of 128 bytes, and 16 floats of each vector, are in bounds for each k < 4.
            unsafe {
                let w = _mm512_cvtph_ps(_mm256_loadu_si256(w.as_ptr().add(k * 32).cast()));
                for (v, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_loadu_ps(x.as_ptr().add(v * cols + c * 64 + k * 16));
                    sums[k] = _mm512_fmadd_ps(w, x, sums[k]);
                }
            }
        }
    }
    let mut out = [0f32; M];
    for (v, (out, sums)) in out.iter_mut().zip(sums).enumerate() {
        let x = &x[v * cols + whole.len() * 64..(v + 1) * cols];
        let rest = rest.as_chunks::<2>().0.iter().zip(x).map(|(&w, x)| half::f16::from_le_bytes(w).to_f32() * x);
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        *out = _mm512_reduce_add_ps(sum) + rest.sum::<f32>();
    }
    out
}

/// Expands a whole row to `f32`, for panels; columns past the last whole block are left to the caller.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn expand_tables<const WIDE: bool>(l: &Lut<'_>, row: usize, cols: usize, out: &mut [f32]) -> usize {
    let bits = l.bits as usize;
    let blocks = cols / 64;
    let unpack = Unpack::new(bits);
    let (low, high) = byte_tables(table(l, row / l.group_rows));
    let indices = &l.indices[row * cols * bits / 8..][..blocks * 8 * bits];
    for (i, out) in indices.chunks_exact(8 * bits).zip(out.as_chunks_mut::<64>().0) {
        let (a, b) = look_up::<WIDE>(unpack.indices::<WIDE>(i), &low, &high);
        for (register, offset) in [(a, 0), (b, 8)] {
            for lane in 0..2 {
                let half =
                    if lane == 0 { _mm512_castsi512_si256(register) } else { _mm512_extracti64x4_epi64::<1>(register) };
                let values = _mm512_cvtph_ps(half);
                let at = offset + lane * 32;
                // SAFETY: `at + 24 ≤ 64`: eight floats from `at` and eight from `at + 16` are in bounds.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr().add(at), _mm512_castps512_ps256(values));
                    _mm256_storeu_ps(out.as_mut_ptr().add(at + 16), _mm512_extractf32x8_ps_f(values));
                }
            }
        }
    }
    blocks * 64
}

/// The upper eight floats, using only AVX-512F.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn _mm512_extractf32x8_ps_f(v: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn expand_f16(bytes: &[u8], out: &mut [f32]) -> usize {
    let n = out.len() / 16 * 16;
    for (w, o) in bytes.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<16>().0) {
        // SAFETY: 32 bytes and 16 floats are in bounds.
        unsafe { _mm512_storeu_ps(o.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(w.as_ptr().cast()))) }
    }
    n
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,f16c,fma")]
fn expand_blocks(blocks: &Blocks<'_>, row: usize, out: &mut [f32]) {
    blocks.expand(row, out);
}

/// Expands a row to `f32`; unsupported forms fall back to the scalar definition.
pub(crate) fn expand_row(weight: &WeightMatrix<'_>, row: usize, out: &mut [f32]) {
    let done = match weight.form {
        Storage::Lut(l) if (weight.cols * l.bits as usize).is_multiple_of(8) => {
            // SAFETY: callers check that the instruction set is enabled.
            unsafe {
                if l.bits == 8 {
                    expand_tables::<true>(&l, row, weight.cols, out)
                } else {
                    expand_tables::<false>(&l, row, weight.cols, out)
                }
            }
        }
        Storage::F16(bytes) => {
            let bytes = &bytes[row * weight.cols * 2..][..weight.cols * 2];
            // SAFETY: callers check that the instruction set is enabled.
            unsafe { expand_f16(bytes, &mut out[..weight.cols]) }
        }
        Storage::Blocks(b) => {
            // SAFETY: callers check that the instruction set is enabled.
            unsafe { expand_blocks(&b, row, &mut out[..weight.cols]) }
            weight.cols
        }
        _ => 0,
    };
    if done < weight.cols {
        let mut whole = vec![0f32; weight.cols];
        weight.expand_row(row, &mut whole);
        out[done..weight.cols].copy_from_slice(&whole[done..]);
    }
}
