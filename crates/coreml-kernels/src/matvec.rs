//! Matrix × vector on stored weights: `y[r] = Σ_c w[r, c] · x[c] + bias[r]`.
//!
//! Every weight is read once, in file order, and indices are looked up in registers. The same kernels take several
//! vectors (`few`): weights are looked up once for `WIDTH` of them, and each result is that of its vector alone, to the
//! bit.

use std::cell::RefCell;

use crate::aligned::Aligned;
use crate::isa::Isa;
use crate::parallel::{self, Shared};
use crate::weight_matrix::{Blocks, Storage, WeightMatrix};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod input;
pub(crate) mod shuffle_i16;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni_i16;

use input::{Input, Orders};

/// Most vectors for which weights are looked up once.
const WIDTH: usize = 8;

/// Where results go: rows `at..at + count` of `n`, to be multiplied by a scale.
struct Results<'o> {
    out: &'o mut [f32],
    n: usize,
    at: usize,
    count: usize,
    scale: f32,
}

/// Places of a group of so many vectors, at most [`WIDTH`].
fn places(count: usize) -> usize {
    count.next_power_of_two()
}

/// Blocks of so many vectors that stay in L1 while several rows are multiplied by them.
const NEAR: usize = 8;

/// One product: a matrix, its bias and its result (`rows` elements).
pub struct Product<'a, 'o> {
    /// The weights.
    pub weight: WeightMatrix<'a>,
    /// Added to the result.
    pub bias: Option<&'a [f32]>,
    /// The result.
    pub out: &'o mut [f32],
}

/// A kernel for consecutive rows: `(weight, first row, vectors, out)`; the results of each vector are contiguous.
type Rows = fn(&WeightMatrix<'_>, usize, &Input<'_>, &mut [f32]);

/// Precision to which a product may round the vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    Single,
    /// Values declared as fp16: errors below fp16 rounding are allowed.
    Half,
}

/// Kernels of one instruction set; the first [`available`](Variant::available) one is used.
#[derive(Clone, Copy)]
pub struct Variant {
    /// Required instruction set. Private, since running the kernel without it is undefined behaviour.
    isa: Isa,
    /// Precision to which it rounds the vector.
    pub precision: Precision,
    prepare: for<'a> fn(&'a [f32], usize, Orders) -> Input<'a>,
    rows: Rows,
    /// Most vectors that [`few`] takes: where weights are multiplied in fixed point, and as fp16.
    most: (usize, usize),
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
    Variant {
        isa: Isa::Avx512Vbmi,
        precision: Precision::Half,
        prepare: Input::rounded,
        rows: avx512::rows,
        most: (16, 8),
    },
    #[cfg(target_arch = "x86_64")]
    Variant {
        isa: Isa::Avx512Vbmi,
        precision: Precision::Single,
        prepare: Input::ordered,
        rows: avx512::rows,
        most: (0, 8),
    },
    #[cfg(target_arch = "x86_64")]
    Variant {
        isa: Isa::AvxVnni,
        precision: Precision::Half,
        prepare: x86::rounded,
        rows: x86::avx_vnni,
        most: (usize::MAX, 8),
    },
    #[cfg(target_arch = "x86_64")]
    Variant {
        isa: Isa::Avx2,
        precision: Precision::Half,
        prepare: x86::rounded,
        rows: x86::avx2,
        most: (usize::MAX, 8),
    },
    #[cfg(target_arch = "x86_64")]
    Variant { isa: Isa::Avx2, precision: Precision::Single, prepare: Input::plain, rows: x86::avx2, most: (0, 8) },
    #[cfg(target_arch = "aarch64")]
    Variant { isa: Isa::Neon, precision: Precision::Half, prepare: arm::rounded, rows: arm::neon, most: (16, 8) },
    #[cfg(target_arch = "aarch64")]
    Variant { isa: Isa::Neon, precision: Precision::Single, prepare: Input::plain, rows: arm::neon, most: (0, 8) },
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Variant {
        isa: Isa::Simd128,
        precision: Precision::Half,
        prepare: wasm::rounded,
        rows: wasm::simd128,
        most: (16, 8),
    },
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Variant {
        isa: Isa::Simd128,
        precision: Precision::Single,
        prepare: Input::plain,
        rows: wasm::simd128,
        most: (0, 8),
    },
    Variant { isa: Isa::Scalar, precision: Precision::Single, prepare: Input::plain, rows: scalar_rows, most: (0, 0) },
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
    run(best(precision), products, x, 1);
}

/// [`matvec`] with a given variant, for tests and benchmarks.
///
/// # Panics
/// Same as [`matvec`], or if the CPU does not support the variant.
pub fn matvec_with(variant: &Variant, weight: WeightMatrix<'_>, x: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    assert!(variant.available(), "a variant of this CPU");
    run(variant, &mut [Product { weight, bias, out }], x, 1);
}

/// Several matrices times `m` vectors, where that is faster than a panel; false where it is not. Each vector's results are
/// those of [`matvec_many`], to the bit. The caller has checked the sizes.
pub(crate) fn few(products: &mut [Product<'_, '_>], x: &[f32], m: usize, precision: Precision) -> bool {
    let variant = best(precision);
    few_with(variant, products, x, m, variant.most)
}

/// True if [`together`] takes products with a matrix.
pub fn are_exact_together(weight: &WeightMatrix<'_>, precision: Precision) -> bool {
    best(precision).takes(weight, 2, ANY)
}

/// `few` whatever is faster.
///
/// # Panics
/// Same as [`matvec`].
pub fn together(products: &mut [Product<'_, '_>], x: &[f32], m: usize, precision: Precision) -> bool {
    few_with(best(precision), products, x, m, ANY)
}

/// No limit to the vectors of [`Variant::most`].
const ANY: (usize, usize) = (usize::MAX, usize::MAX);

impl Variant {
    /// Whether the kernels for several vectors take a matrix times `m` vectors.
    fn takes(&self, weight: &WeightMatrix<'_>, m: usize, (fixed, halves): (usize, usize)) -> bool {
        let fixed = m <= fixed && self.most.0 > 0;
        match weight.form {
            Storage::F16(_) => m <= halves && self.most.1 > 0,
            Storage::Lut(l) => fixed && (weight.cols * l.bits as usize).is_multiple_of(8),
            Storage::Blocks(b) => fixed && shuffle_i16::holds(&b, weight.cols),
            _ => false,
        }
    }
}

fn few_with(variant: &Variant, products: &mut [Product<'_, '_>], x: &[f32], m: usize, most: (usize, usize)) -> bool {
    if m < 2 || x.is_empty() || !products.iter().all(|p| variant.takes(&p.weight, m, most)) {
        return false;
    }
    run(variant, products, x, m);
    true
}

/// Some rows of one product.
struct Job<'a> {
    weight: &'a WeightMatrix<'a>,
    bias: Option<&'a [f32]>,
    target: &'a Shared<f32>,
    first: usize,
    rows: usize,
}

/// Rows of weights that several vectors are multiplied by at a time.
const PIECE: usize = 64;

thread_local! {
    /// Results of [`PIECE`] rows, contiguous for each vector.
    static RESULTS: RefCell<Aligned<f32>> = const { RefCell::new(Aligned::empty()) };
}

impl Job<'_> {
    fn run(&self, variant: &Variant, input: &Input<'_>) {
        let add = |out: &mut [f32], first: usize| {
            if let Some(bias) = self.bias {
                out.iter_mut().zip(&bias[first..]).for_each(|(o, b)| *o += b);
            }
        };
        // SAFETY: the output has `count` rows of `weight.rows` elements, and these columns belong to this job.
        let part = |i: usize, first: usize, n: usize| unsafe {
            std::slice::from_raw_parts_mut(self.target.get().add(i * self.weight.rows + first), n)
        };
        if input.count == 1 {
            let out = part(0, self.first, self.rows);
            (variant.rows)(self.weight, self.first, input, out);
            return add(out, self.first);
        }
        RESULTS.with_borrow_mut(|results| {
            let end = self.first + self.rows;
            for first in (self.first..end).step_by(PIECE) {
                let n = PIECE.min(end - first);
                let results = results.at_least(n * input.count);
                (variant.rows)(self.weight, first, input, results);
                for (i, results) in results.chunks_exact(n).enumerate() {
                    let out = part(i, first, n);
                    out.copy_from_slice(results);
                    add(out, first);
                }
            }
        });
    }
}

fn run(variant: &Variant, products: &mut [Product<'_, '_>], x: &[f32], m: usize) {
    let (mut total, mut orders) = (0usize, Orders::default());
    let mut targets = Vec::with_capacity(products.len());
    for p in products.iter_mut() {
        assert_eq!(p.weight.cols * m, x.len(), "length of x");
        assert_eq!(p.weight.rows * m, p.out.len(), "length of out");
        assert!(p.bias.is_none_or(|b| b.len() == p.weight.rows), "length of bias");
        total = total.saturating_add(p.weight.rows * p.weight.cols);
        targets.push(Shared(p.out.as_mut_ptr()));
        match p.weight.form {
            Storage::Lut(l) if l.bits == 4 => orders.nibble = true,
            Storage::Lut(_) => orders.lane = true,
            Storage::Blocks(b) if b.bits == 4 => orders.nibble = true,
            Storage::Blocks(_) => orders.plain = true,
            _ => {}
        }
    }
    let input = (variant.prepare)(x, m, orders);
    if input.count > 1 && !input.is_fixed() && orders != Orders::default() {
        // A vector that is not finite; the others keep their results.
        for (i, x) in x.chunks_exact(x.len() / m).enumerate() {
            let mut alone = Vec::with_capacity(products.len());
            for Product { weight, bias, out } in products.iter_mut() {
                let out = &mut out[i * weight.rows..(i + 1) * weight.rows];
                alone.push(Product { weight: *weight, bias: *bias, out });
            }
            run(variant, &mut alone, x, 1);
        }
        return;
    }
    let all = products.iter().zip(&targets);
    let whole = all.map(|(p, target)| Job { weight: &p.weight, bias: p.bias, target, first: 0, rows: p.weight.rows });
    let threads = parallel::threads();
    if total.saturating_mul(m) < 2 * SPLIT || threads == 1 {
        whole.for_each(|job| job.run(variant, &input));
    } else {
        let mut shares = shares(whole, total, threads);
        parallel::in_turn(&mut shares, |share| share.iter().for_each(|job| job.run(variant, &input)));
    }
}

/// Shares the rows of all products: a long run per thread, since uninterrupted streams read memory fastest, then short
/// ones to balance the load.
fn shares<'a>(products: impl Iterator<Item = Job<'a>>, total: usize, threads: usize) -> Vec<Vec<Job<'a>>> {
    let long = total / threads * 4 / 5;
    let short = ((total - long * threads) / (threads * 2)).max(SPLIT / 4);
    let mut shares: Vec<Vec<Job<'a>>> = vec![Vec::new()];
    let mut room = long;
    for job in products {
        let cols = job.weight.cols;
        let mut first = 0;
        while first < job.rows {
            // Whole groups of 8 rows, which share tables.
            let left = job.rows - first;
            let rows = (room / cols.max(1)).next_multiple_of(8).clamp(8, left.max(8)).min(left);
            if let Some(share) = shares.last_mut() {
                share.push(Job { first, rows, ..job });
            }
            first += rows;
            room = room.saturating_sub(rows * cols);
            // The remainder is too short for a separate share.
            if room < SPLIT / 8 {
                room = if shares.len() < threads { long } else { short };
                shares.push(Vec::new());
            }
        }
    }
    shares
}

/// Calls `one(vector, its results)` for each vector, where there is no kernel for several.
fn each(input: &Input<'_>, out: &mut [f32], mut one: impl FnMut(&[f32], &mut [f32])) {
    let (cols, n) = (input.x.len() / input.count, out.len() / input.count);
    (0..input.count).for_each(|i| one(&input.x[i * cols..][..cols], &mut out[i * n..][..n]));
}

fn scalar_rows(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
    each(input, out, |x, out| expand_and_dot(weight, first, x, out));
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

    pub(super) fn rounded(x: &[f32], count: usize, orders: Orders) -> Input<'_> {
        let rounded = shuffle_i16::Rounded::new(x, count, orders, <__m256i as Bytes>::LANES);
        Input { rounded, ..Input::plain(x, count, orders) }
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

    pub(super) fn rounded(x: &[f32], count: usize, orders: Orders) -> Input<'_> {
        Input { rounded: shuffle_i16::Rounded::new(x, count, orders, 1), ..Input::plain(x, count, orders) }
    }

    pub(super) fn neon(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
        // SAFETY: every aarch64 CPU has NEON.
        unsafe { shuffle_i16::rows::<uint8x16_t, float32x4_t>(weight, first, input, out) }
    }
}

/// The kernels of [`shuffle_i16`] for modules that were compiled with registers of 128 bits.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm {
    use std::arch::wasm32::v128;

    use super::{Input, Orders, WeightMatrix, shuffle_i16};

    pub(super) fn rounded(x: &[f32], count: usize, orders: Orders) -> Input<'_> {
        Input { rounded: shuffle_i16::Rounded::new(x, count, orders, 1), ..Input::plain(x, count, orders) }
    }

    pub(super) fn simd128(weight: &WeightMatrix<'_>, first: usize, input: &Input<'_>, out: &mut [f32]) {
        // SAFETY: the module was compiled with these registers.
        unsafe { shuffle_i16::rows::<v128, v128>(weight, first, input, out) }
    }
}

#[cfg(test)]
mod tests;
