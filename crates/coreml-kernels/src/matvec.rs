//! Matrix × vector on stored weights: `y[r] = Σ_c w[r, c] · x[c] + bias[r]`.
//!
//! Every weight is read once, in file order. With AVX-512 VBMI, indices are looked up in registers; the other variants
//! expand a segment of a row and multiply.

use crate::isa::Isa;
use crate::parallel;
use crate::weight_matrix::{Blocks, Storage, WeightMatrix};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod shuffle_i16;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni_i16;

/// One product: a matrix, its bias and its result (`rows` elements).
pub struct Product<'a, 'o> {
    /// The weights.
    pub weight: WeightMatrix<'a>,
    /// Added to the result.
    pub bias: Option<&'a [f32]>,
    /// The result.
    pub out: &'o mut [f32],
}

/// A kernel for consecutive rows: `(weight, first row, x, prepared x, out)`.
type Rows = fn(&WeightMatrix<'_>, usize, &Input<'_>, &mut [f32]);

/// Precision to which a product may round the vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    Single,
    /// Values declared as fp16: errors below fp16 rounding are allowed.
    Half,
}

/// The vector in the element orders of the variants.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 variants read other orders"))]
struct Input<'a> {
    x: &'a [f32],
    /// In blocks of 128: element `8·j + s` is at `16·s + j` (4-bit kernel).
    by_nibble: Vec<f32>,
    /// In blocks of 64, in the order of widened bytes (table kernels).
    by_lane: Vec<f32>,
    /// In fixed point, if allowed and possible: for AVX-512, and for byte shuffles.
    #[cfg(target_arch = "x86_64")]
    fixed: Option<vnni_i16::Fixed>,
    rounded: Option<shuffle_i16::Rounded>,
}

/// Order of the 64 elements of a block after `unpack{lo,hi}_epi8` and conversion by halves.
#[cfg(target_arch = "x86_64")]
const LANE_ORDER: [usize; 8] = [0, 16, 32, 48, 8, 24, 40, 56];

/// Element orders needed by a call: for 4-bit weights, for other tables, for 8-bit integers.
#[derive(Clone, Copy, Default)]
struct Orders {
    nibble: bool,
    lane: bool,
    plain: bool,
}

impl Input<'_> {
    fn plain(x: &[f32], _: Orders) -> Input<'_> {
        Input {
            x,
            by_nibble: Vec::new(),
            by_lane: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            fixed: None,
            rounded: None,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn ordered(x: &[f32], orders: Orders) -> Input<'_> {
        let mut by_nibble = Vec::new();
        if orders.nibble {
            by_nibble.resize(x.len() / 128 * 128, 0.0);
            for (to, from) in by_nibble.chunks_exact_mut(128).zip(x.chunks_exact(128)) {
                for (i, &v) in from.iter().enumerate() {
                    to[i % 8 * 16 + i / 8] = v;
                }
            }
        }
        let mut by_lane = Vec::new();
        if orders.lane {
            by_lane.resize(x.len() / 64 * 64, 0.0);
            for (to, from) in by_lane.chunks_exact_mut(64).zip(x.chunks_exact(64)) {
                for (to, &at) in to.chunks_exact_mut(8).zip(&LANE_ORDER) {
                    to.copy_from_slice(&from[at..at + 8]);
                }
            }
        }
        Input { x, by_nibble, by_lane, fixed: None, rounded: None }
    }

    #[cfg(target_arch = "x86_64")]
    fn rounded(x: &[f32], orders: Orders) -> Input<'_> {
        match vnni_i16::Fixed::new(x, orders) {
            Some(fixed) => Input { fixed: Some(fixed), ..Input::plain(x, orders) },
            None => Input::ordered(x, orders),
        }
    }
}

/// Kernels of one instruction set; the first [`available`](Variant::available) one is used.
#[derive(Clone, Copy)]
pub struct Variant {
    /// Required instruction set. Private, since running the kernel without it is undefined behaviour.
    isa: Isa,
    /// Precision to which it rounds the vector.
    pub precision: Precision,
    prepare: for<'a> fn(&'a [f32], Orders) -> Input<'a>,
    rows: Rows,
}

impl Variant {
    /// Name for tests and benchmarks.
    pub fn name(&self) -> &'static str {
        self.isa.name()
    }

    /// True if the CPU supports it.
    pub fn available(&self) -> bool {
        self.isa.enabled()
    }
}

/// All variants, fastest first; the scalar definition is last.
pub const VARIANTS: &[Variant] = &[
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx512Vbmi, precision: Precision::Half, prepare: Input::rounded, rows: avx512::rows },
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx512Vbmi, precision: Precision::Single, prepare: Input::ordered, rows: avx512::rows },
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::AvxVnni, precision: Precision::Half, prepare: x86::rounded, rows: x86::avx_vnni },
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx2, precision: Precision::Half, prepare: x86::rounded, rows: x86::avx2 },
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx2, precision: Precision::Single, prepare: Input::plain, rows: x86::avx2 },
    #[cfg(target_arch = "aarch64")]
    Variant { isa: Isa::Neon, precision: Precision::Half, prepare: arm::rounded, rows: arm::neon },
    #[cfg(target_arch = "aarch64")]
    Variant { isa: Isa::Neon, precision: Precision::Single, prepare: Input::plain, rows: arm::neon },
    Variant { isa: Isa::Scalar, precision: Precision::Single, prepare: Input::plain, rows: scalar_rows },
];

fn best(precision: Precision) -> &'static Variant {
    let fits = |v: &&Variant| (precision == Precision::Half || v.precision == Precision::Single) && v.available();
    VARIANTS.iter().find(fits).unwrap_or(&VARIANTS[VARIANTS.len() - 1])
}

/// Half the number of weights worth a second thread.
const SPLIT: usize = 1 << 15;

/// `y = W · x + bias`.
///
/// # Panics
/// If the length of `x`, `bias` or `out` does not match the matrix.
pub fn matvec(weight: WeightMatrix<'_>, x: &[f32], bias: Option<&[f32]>, precision: Precision, out: &mut [f32]) {
    matvec_many(&mut [Product { weight, bias, out }], x, precision);
}

/// Several matrices times the same vector, in one parallel region.
///
/// # Panics
/// Same as [`matvec`].
pub fn matvec_many(products: &mut [Product<'_, '_>], x: &[f32], precision: Precision) {
    run(best(precision), products, x);
}

/// [`matvec`] with a given variant, for tests and benchmarks.
///
/// # Panics
/// Same as [`matvec`], or if the CPU does not support the variant.
pub fn matvec_with(variant: &Variant, weight: WeightMatrix<'_>, x: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    assert!(variant.available(), "a variant of this CPU");
    run(variant, &mut [Product { weight, bias, out }], x);
}

/// Some rows of one product: weight, first row, bias of all rows, results of these rows.
type Job<'a> = (&'a WeightMatrix<'a>, usize, Option<&'a [f32]>, &'a mut [f32]);

fn run(variant: &Variant, products: &mut [Product<'_, '_>], x: &[f32]) {
    let (mut total, mut orders) = (0usize, Orders::default());
    for p in products.iter() {
        assert_eq!(p.weight.cols, x.len(), "length of x");
        assert_eq!(p.weight.rows, p.out.len(), "length of out");
        assert!(p.bias.is_none_or(|b| b.len() == p.weight.rows), "length of bias");
        total = total.saturating_add(p.weight.rows * p.weight.cols);
        match p.weight.form {
            Storage::Lut(l) if l.bits == 4 => orders.nibble = true,
            Storage::Lut(_) => orders.lane = true,
            Storage::Blocks(b) if b.bits == 4 => orders.nibble = true,
            Storage::Blocks(_) => orders.plain = true,
            _ => {}
        }
    }
    let input = (variant.prepare)(x, orders);
    let work = |(weight, first, bias, out): &mut Job<'_>| {
        let (first, bias) = (*first, *bias);
        (variant.rows)(weight, first, &input, out);
        if let Some(bias) = bias {
            out.iter_mut().zip(&bias[first..]).for_each(|(o, b)| *o += b);
        }
    };
    let threads = parallel::threads();
    if total < 2 * SPLIT || threads == 1 {
        products.iter_mut().for_each(|p| work(&mut (&p.weight, 0, p.bias, &mut *p.out)));
    } else {
        let mut shares = shares(products, total, threads);
        parallel::in_turn(&mut shares, |share| share.iter_mut().for_each(work));
    }
}

/// Shares the rows of all products: a long run per thread, since uninterrupted streams read memory fastest, then short
/// ones to balance the load.
fn shares<'a>(products: &'a mut [Product<'_, '_>], total: usize, threads: usize) -> Vec<Vec<Job<'a>>> {
    let long = total / threads * 4 / 5;
    let short = ((total - long * threads) / (threads * 2)).max(SPLIT / 4);
    let mut shares: Vec<Vec<Job<'a>>> = vec![Vec::new()];
    let mut room = long;
    for p in products {
        let (weight, bias) = (&p.weight, p.bias);
        let (mut first, mut out) = (0, &mut *p.out);
        while !out.is_empty() {
            // Whole groups of 8 rows, which share tables.
            let rows = (room / weight.cols.max(1)).next_multiple_of(8).clamp(8, out.len().max(8)).min(out.len());
            let (part, rest) = out.split_at_mut(rows);
            if let Some(share) = shares.last_mut() {
                share.push((weight, first, bias, part));
            }
            (first, out) = (first + rows, rest);
            room = room.saturating_sub(rows * weight.cols);
            // The remainder is too short for a separate share.
            if room < SPLIT / 8 {
                room = if shares.len() < threads { long } else { short };
                shares.push(Vec::new());
            }
        }
    }
    shares
}

fn scalar_rows(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
    expand_and_dot(weight, first, input.x, out);
}

/// [`dot_rows`] with rows expanded by the scalar definition.
#[inline(always)]
pub(crate) fn expand_and_dot(weight: &WeightMatrix<'_>, first: usize, x: &[f32], out: &mut [f32]) {
    dot_rows(weight, first, x, out, |row, out| weight.expand_row(row, out));
}

/// Expands rows that are not `f32` and multiplies in 16 partial sums; compiled for each instruction set.
#[inline(always)]
fn dot_rows(weight: &WeightMatrix<'_>, first: usize, x: &[f32], out: &mut [f32], expand: impl Fn(usize, &mut [f32])) {
    let mut row = vec![0f32; weight.cols];
    for (r, o) in out.iter_mut().enumerate() {
        let row = match weight.whole_rows(first + r, 1) {
            Some(row) => row,
            None => {
                expand(first + r, &mut row);
                &row
            }
        };
        let mut sums = [0f32; 16];
        let ((ws, wt), (xs, xt)) = (row.as_chunks::<16>(), x.as_chunks::<16>());
        for (w, x) in ws.iter().zip(xs) {
            for i in 0..16 {
                sums[i] += w[i] * x[i];
            }
        }
        let tail: f32 = wt.iter().zip(xt).map(|(w, x)| w * x).sum();
        *o = sums.iter().sum::<f32>() + tail;
    }
}

/// Subtracts the contribution of block offsets: `Σ scale · offset · Σ x` over the blocks of a row.
fn subtract_offsets(b: &Blocks<'_>, first: usize, x: &[f32], out: &mut [f32]) {
    let Some(offsets) = b.offset else { return };
    let per_row = x.len() / b.block_cols;
    let sums: Vec<f32> = x.chunks_exact(b.block_cols).map(|x| x.iter().sum()).collect();
    for (r, o) in out.iter_mut().enumerate() {
        let group = (first + r) / b.block_rows * per_row;
        let parts = b.scale[group..].iter().zip(&offsets[group..]).zip(&sums);
        *o -= parts.map(|((scale, offset), x)| scale * offset * x).sum::<f32>();
    }
}

/// The kernels of [`shuffle_i16`], compiled for each instruction set.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m256i};

    use super::{Input, Orders, WeightMatrix, shuffle_i16};
    use crate::simd::{AvxVnni, Bytes};

    pub(super) fn rounded(x: &[f32], orders: Orders) -> Input<'_> {
        Input { rounded: shuffle_i16::Rounded::new(x, orders, <__m256i as Bytes>::LANES), ..Input::plain(x, orders) }
    }

    pub(super) fn avx2(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
            // SAFETY: features enabled by this function.
            unsafe { shuffle_i16::rows::<__m256i, __m256>(weight, first, input, out) }
        }
        // SAFETY: the variant is used only if its instruction set is enabled.
        unsafe { inner(weight, first, input, out) }
    }

    pub(super) fn avx_vnni(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn inner(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
            // SAFETY: features enabled by this function.
            unsafe { shuffle_i16::rows::<AvxVnni, __m256>(weight, first, input, out) }
        }
        // SAFETY: the variant is used only if its instruction set is enabled.
        unsafe { inner(weight, first, input, out) }
    }
}

/// The kernels of [`shuffle_i16`] for NEON, which every aarch64 CPU has.
#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{float32x4_t, uint8x16_t};

    use super::{Input, Orders, WeightMatrix, shuffle_i16};

    pub(super) fn rounded(x: &[f32], orders: Orders) -> Input<'_> {
        Input { rounded: shuffle_i16::Rounded::new(x, orders, 1), ..Input::plain(x, orders) }
    }

    pub(super) fn neon(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
        // SAFETY: every aarch64 CPU has NEON.
        unsafe { shuffle_i16::rows::<uint8x16_t, float32x4_t>(weight, first, input, out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight_matrix::Lut;

    /// A small linear congruential generator, sufficient for tests.
    fn noise(n: usize, seed: u32) -> Vec<u32> {
        let mut s = seed;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                s >> 8
            })
            .collect()
    }

    fn bytes(n: usize, seed: u32) -> Vec<u8> {
        noise(n, seed).into_iter().map(|v| (v >> 5) as u8).collect()
    }

    fn halves(n: usize, seed: u32) -> Vec<u8> {
        noise(n, seed)
            .into_iter()
            .flat_map(|v| half::f16::from_f32((v % 2001) as f32 / 1000.0 - 1.0).to_le_bytes())
            .collect()
    }

    fn check(weight: WeightMatrix<'_>) {
        let x: Vec<f32> = noise(weight.cols(), 7).into_iter().map(|v| (v % 1999) as f32 / 1000.0 - 1.0).collect();
        let bias: Vec<f32> = (0..weight.rows()).map(|r| r as f32 / 8.0).collect();
        let mut row = vec![0f32; weight.cols()];
        // Reference in f64.
        let want: Vec<f64> = (0..weight.rows())
            .map(|r| {
                weight.expand_row(r, &mut row);
                f64::from(bias[r]) + row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>()
            })
            .collect();
        // Terms of the error bound, for entries and elements of magnitude one.
        let sum = |v: &[f32]| v.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        let of_x = sum(&x) * 2f64.powi(-13);
        for variant in VARIANTS.iter().filter(|v| v.isa.enabled()) {
            let mut got = vec![f32::NAN; weight.rows()];
            matvec_with(variant, weight, &x, Some(&bias), &mut got);
            for (r, (g, w)) in got.iter().zip(&want).enumerate() {
                // f32 sums of `cols` terms of magnitude one.
                let mut tolerance = 1e-6 * (weight.cols() as f64 + 8.0);
                if variant.precision == Precision::Half {
                    weight.expand_row(r, &mut row);
                    tolerance += of_x + sum(&row) * 2f64.powi(-16);
                }
                assert!((f64::from(*g) - w).abs() <= tolerance, "{} row {r}: {g} != {w}", variant.name());
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn every_variant_agrees_with_the_definition_for_every_width_and_tail() {
        for bits in [1u32, 2, 3, 4, 6, 8] {
            for cols in [1usize, 7, 8, 63, 64, 65, 96, 128, 192, 200, 256, 320, 1024] {
                for (rows, group_rows) in [(8, 8), (16, 8), (3, 3), (24, 4), (80, 80)] {
                    let indices = bytes((rows * cols * bits as usize).div_ceil(8), bits + cols as u32);
                    let tables = halves((rows / group_rows) << bits, 3 + bits);
                    let lut = Lut { bits, indices: &indices, tables: &tables, group_rows };
                    check(WeightMatrix::new(rows, cols, Storage::Lut(lut)).expect("sizes match"));
                }
            }
        }
    }

    #[test]
    fn dense_and_block_forms_agree() {
        for cols in [1usize, 15, 16, 17, 32, 64, 200] {
            let data = halves(9 * cols, 5);
            check(WeightMatrix::new(9, cols, Storage::F16(&data)).expect("sizes match"));
            let data: Vec<u8> = noise(9 * cols, 6).iter().flat_map(|v| (*v as f32 / 2e7).to_le_bytes()).collect();
            check(WeightMatrix::new(9, cols, Storage::F32(&data)).expect("sizes match"));
        }
        for (bits, signed) in [(4, false), (4, true), (8, false), (8, true)] {
            for (cols, block_rows, block_cols) in [
                (64, 4, 16),
                (9, 1, 3),
                (15, 2, 15),
                (256, 1, 32),
                (384, 4, 128),
                (512, 8, 256),
                (160, 1, 32),
                (256, 2, 64),
            ] {
                let data = bytes(8 * cols, 11);
                let count = 8 / block_rows * (cols / block_cols);
                let scale: Vec<f32> = (1..=count).map(|i| i as f32 / 1000.0 / count as f32).collect();
                let offset: Vec<f32> = (1..=count).map(|i| (i % 5) as f32).collect();
                for offset in [None, Some(&offset[..])] {
                    let form = Blocks { bits, signed, data: &data, scale: &scale, offset, block_rows, block_cols };
                    check(WeightMatrix::new(8, cols, Storage::Blocks(form)).expect("sizes match"));
                }
            }
        }
    }

    #[test]
    fn parts_that_are_too_small_are_rejected() {
        let lut = Lut { bits: 6, indices: &[0; 47], tables: &[0; 128], group_rows: 1 };
        assert!(WeightMatrix::new(1, 64, Storage::Lut(lut)).is_err());
        assert!(WeightMatrix::new(1, 64, Storage::F16(&[0; 127])).is_err());
        assert!(WeightMatrix::new(usize::MAX, 64, Storage::F32(&[])).is_err());
    }
}
