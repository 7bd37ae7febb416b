//! Rows of stored weights as `f32`: the decoder that products of several rows, and gathers, share.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::isa::{self, Isa};
use crate::matvec::shuffle_i16::broadcasts;
use crate::simd::{Bytes, Vector};
use crate::weight_matrix::{Lut, Storage, WeightMatrix};

/// Writes one row; the caller has checked that it is there and that `out` has its length.
type Row = fn(&WeightMatrix<'_>, usize, &mut [f32]);

/// All instruction sets, fastest first; the last one is the definition.
const VARIANTS: &[(Isa, Row)] = &[
    #[cfg(target_arch = "x86_64")]
    (Isa::Avx512Vbmi, crate::matvec::avx512::expand_row),
    #[cfg(target_arch = "x86_64")]
    (Isa::Avx2, x86::avx2),
    #[cfg(target_arch = "aarch64")]
    (Isa::Neon, arm::neon),
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    (Isa::Simd128, simd128),
    (Isa::Scalar, definition),
];

/// One row as `f32`, by the fastest way there is.
///
/// # Panics
/// When `row` is out of range or `out` is shorter than a row.
pub fn expand_row(weight: &WeightMatrix<'_>, row: usize, out: &mut [f32]) {
    assert!(row < weight.rows && out.len() >= weight.cols, "row {row} of {}", weight.rows);
    (isa::best(VARIANTS, |v| v.0).1)(weight, row, &mut out[..weight.cols]);
}

fn definition(weight: &WeightMatrix<'_>, row: usize, out: &mut [f32]) {
    weight.expand_row(row, out);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m256i};

    use crate::weight_matrix::WeightMatrix;

    pub(super) fn avx2(weight: &WeightMatrix<'_>, row: usize, out: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(weight: &WeightMatrix<'_>, row: usize, out: &mut [f32]) {
            // SAFETY: the features of this function.
            unsafe { super::row::<__m256i, __m256>(weight, row, out) }
        }
        // SAFETY: the variant is used only where its instruction set is enabled.
        unsafe { inner(weight, row, out) }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{float32x4_t, uint8x16_t};

    use crate::weight_matrix::WeightMatrix;

    pub(super) fn neon(weight: &WeightMatrix<'_>, row: usize, out: &mut [f32]) {
        // SAFETY: every aarch64 CPU has NEON.
        unsafe { super::row::<uint8x16_t, float32x4_t>(weight, row, out) }
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
fn simd128(weight: &WeightMatrix<'_>, index: usize, out: &mut [f32]) {
    use std::arch::wasm32::v128;
    // SAFETY: the module was compiled with these registers.
    unsafe { row::<v128, v128>(weight, index, out) }
}

/// A row in registers of one instruction set; what they can't do falls back to the definition.
///
/// # Safety
/// The CPU has the instruction sets of `B` and `V`.
#[inline(always)]
pub(crate) unsafe fn row<B: Bytes, V: Vector>(weight: &WeightMatrix<'_>, row: usize, out: &mut [f32]) {
    match weight.form {
        // SAFETY: the caller's contract, here and below.
        Storage::Lut(l) if (weight.cols * l.bits as usize).is_multiple_of(8) => unsafe { table::<B>(&l, row, out) },
        // SAFETY: as above.
        Storage::F16(bytes) => unsafe { widen::<V>(&bytes[row * weight.cols * 2..][..weight.cols * 2], out) },
        Storage::Blocks(b) => b.expand(row, out),
        _ => weight.expand_row(row, out),
    }
}

/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn widen<V: Vector>(halves: &[u8], out: &mut [f32]) {
    let whole = out.len() / V::LANES * V::LANES;
    for at in (0..whole).step_by(V::LANES) {
        // SAFETY: the caller's contract; both have the elements that are read and written.
        unsafe { V::load_f16(halves.as_ptr().add(2 * at)).store(out.as_mut_ptr().add(at)) }
    }
    let rest = halves[2 * whole..].as_chunks::<2>().0;
    out[whole..].iter_mut().zip(rest).for_each(|(o, &h)| *o = f16::from_le_bytes(h).to_f32());
}

/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn table<B: Bytes>(l: &Lut<'_>, row: usize, out: &mut [f32]) {
    let entries = 1usize << l.bits;
    let halves = l.tables[row / l.group_rows * entries * 2..][..entries * 2].as_chunks::<2>().0;
    let row_bytes = out.len() * l.bits as usize / 8;
    let packed = &l.indices[row * row_bytes..][..row_bytes];
    if l.bits == 8 {
        let (mut table, mut values) = ([f16::ZERO; 256], [0f32; 256]);
        table.iter_mut().zip(halves).for_each(|(t, &h)| *t = f16::from_le_bytes(h));
        table.convert_to_f32_slice(&mut values);
        out.iter_mut().zip(packed).for_each(|(o, &i)| *o = values[usize::from(i)]);
        return;
    }
    let (mut low, mut high) = ([0u8; 64], [0u8; 64]);
    for ((low, high), &half) in low.iter_mut().zip(&mut high).zip(halves) {
        [*low, *high] = half;
    }
    // SAFETY: the caller's contract.
    let (low, high) = unsafe { (broadcasts::<B>(&low), broadcasts::<B>(&high)) };
    let mut chunks = out.chunks_mut(CHUNK);
    let mut packed = packed.chunks(CHUNK * l.bits as usize / 8);
    let (mut indices, mut last) = ([0u8; CHUNK], [0f32; CHUNK]);
    for (out, packed) in (&mut chunks).zip(&mut packed) {
        // SAFETY: the caller's contract; a chunk has room for what is written.
        unsafe {
            if l.bits == 4 {
                nibbles::<B>(packed, &mut indices);
            } else {
                unpack(packed, l.bits, &mut indices);
            }
            let whole = if out.len() == CHUNK { &mut *out } else { &mut last[..] };
            for at in (0..CHUNK).step_by(16 * B::LANES) {
                let i = B::load(indices.as_ptr().add(at));
                let (low, high) = if l.bits == 6 {
                    (B::look_up_64(low, i), B::look_up_64(high, i))
                } else {
                    (low[0].look_up(i), high[0].look_up(i))
                };
                let (a, b) = B::interleave(low, high);
                // The first eight entries of each lane, and the last ones.
                a.store_halves(whole.as_mut_ptr().add(at), 16);
                b.store_halves(whole.as_mut_ptr().add(at + 8), 16);
            }
            if out.len() < CHUNK {
                out.copy_from_slice(&last[..out.len()]);
            }
        }
    }
}

/// Indices that are unpacked at a time.
const CHUNK: usize = 256;

/// Four-bit indices as bytes, in order.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn nibbles<B: Bytes>(packed: &[u8], out: &mut [u8; CHUNK]) {
    let mut bytes = [0u8; CHUNK / 2];
    bytes[..packed.len()].copy_from_slice(packed);
    for at in (0..CHUNK / 2).step_by(16 * B::LANES) {
        // SAFETY: the caller's contract; each lane of 16 bytes becomes 32 indices.
        unsafe {
            let v = B::load(bytes.as_ptr().add(at));
            let (a, b) = B::interleave(v.low_nibbles(), v.high_nibbles());
            a.store_lanes(out.as_mut_ptr().add(2 * at), 32);
            b.store_lanes(out.as_mut_ptr().add(2 * at + 16), 32);
        }
    }
}

/// Indices of a bit stream of 1, 2, 3, 4 or 6 bits as bytes; zeros after the last one.
#[inline(always)]
pub(crate) fn unpack<const N: usize>(packed: &[u8], bits: u32, out: &mut [u8; N]) {
    // Eight indices take as many bytes as one has bits. They are spread in three steps: halves, quarters, eighths.
    let (half, quarter, mask) = (4 * bits, 2 * bits, (1u64 << bits) - 1);
    let (halves, quarters, eighths) =
        ((1u64 << half) - 1, ((1u64 << quarter) - 1) * 0x1_0000_0001, mask * 0x1_0001_0001_0001);
    let step = bits as usize;
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let rest = packed.get(i * step..).unwrap_or_default();
        let v = match rest.first_chunk() {
            Some(&bytes) => u64::from_le_bytes(bytes),
            None => rest.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)),
        };
        let v = v & halves | (v >> half & halves) << 32;
        let v = v & quarters | (v >> quarter & quarters) << 16;
        let v = v & eighths | (v >> bits & eighths) << 8;
        *out = v.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 151 % 256) as u8 ^ (i / 256) as u8).collect()
    }

    #[test]
    fn indices_of_every_width_are_unpacked_in_order() {
        for bits in [1u32, 2, 3, 4, 6] {
            let packed = bytes(bits as usize * 19);
            let mut out = [0xff; 256];
            unpack(&packed, bits, &mut out);
            for (i, &index) in out.iter().enumerate() {
                let at = |b: usize| i * bits as usize + b;
                let bit = |b: usize| packed.get(at(b) / 8).map_or(0, |p| p >> (at(b) % 8) & 1);
                let want = (0..bits as usize).fold(0, |v, b| v | bit(b) << b);
                assert_eq!(index, want, "{bits} bits, index {i}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn every_variant_writes_the_bits_of_the_definition() {
        let check = |weight: WeightMatrix<'_>, what: &str| {
            for (isa, variant) in VARIANTS.iter().filter(|v| v.0.enabled()) {
                for row in 0..weight.rows {
                    let (mut got, mut want) = (vec![f32::NAN; weight.cols], vec![f32::NAN; weight.cols]);
                    variant(&weight, row, &mut got);
                    weight.expand_row(row, &mut want);
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got), bits(&want), "{} {what} {} row {row}", isa.name(), weight.cols);
                }
            }
        };
        for cols in [1usize, 8, 24, 40, 128, 200, 256, 264, 520, 1024] {
            for bits in [1u32, 2, 3, 4, 6, 8] {
                let indices = bytes((8 * cols * bits as usize).div_ceil(8));
                // Every pattern that is no signalling NaN, which a conversion may quiet.
                let halves =
                    |i: usize| f16::from_f32((i as f32 * 0.37 - 20.0) * if i.is_multiple_of(5) { 1e-6 } else { 1.0 });
                let tables: Vec<u8> = (0..2usize << bits).flat_map(|i| halves(i).to_le_bytes()).collect();
                let lut = Lut { bits, indices: &indices, tables: &tables, group_rows: 4 };
                check(WeightMatrix::new(8, cols, Storage::Lut(lut)).expect("sizes match"), &format!("{bits} bits"));
            }
            let halves: Vec<u8> = (0..3 * cols).flat_map(|i| f16::from_f32(i as f32 / 7.0).to_le_bytes()).collect();
            check(WeightMatrix::new(3, cols, Storage::F16(&halves)).expect("sizes match"), "fp16");
        }
    }
}
