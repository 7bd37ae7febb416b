//! CPU kernels on weights in stored form: slices in, slices out.
//!
//! - [`weight_matrix`]: dense, palettized and block-wise quantized matrices.
//! - [`matvec`], [`matmul`], [`packed`]: products, selected as in the table below.
//! - [`conv`]: convolution and pooling of channels-last images. [`resample`]: interpolation.
//! - [`cached_attention`]: grouped-query attention over an fp16 KV cache, in place. [`packed::sdpa`]: over whole sequences.
//! - [`softmax`], [`norm`], [`reduce`], [`argmax`](mod@argmax): over an axis or rows. [`rotary`]: position embedding.
//! - [`math`]: branch-free elementary functions. [`elementwise`]: functions over whole tensors.
//! - [`activation`]: fused into the epilogue of products.
//! - [`gather`]: index selection, concatenation, contiguous copies for all element types. [`scatter`]: updates
//!   at indices. [`sort`]: argsort and top-k.
//! - [`forest`]: decision trees over rows of numbers. [`fp16`]: conversions. [`strided`]: operands in any memory order.
//! - [`parallel`]: thread pool. [`buffer_pool`]: result buffers.
//!
//! | product | weights | kernel |
//! |---|---|---|
//! | vector (decoding) | any stored form | [`matvec`]; in 16-bit fixed point for fp16 inputs on CPUs with VNNI |
//! | 2 rows of `x` | any stored form | [`matvec`], row by row |
//! | more rows | palettized, block-wise quantized, fp16 | [`matmul`]; fixed point as above |
//! | 8 or more rows | dense f32 constants | [`packed`], packed at load |
//! | two computed matrices | f32 | [`packed::multiply`], the right one packed per call |
//! | patches of an image | dense f32 constants | [`conv::conv_packed`] over [`packed`]; 3×3 with enough tiles: [`conv::Winograd`] |
//!
//! Arithmetic is f32. Every kernel has a scalar definition and variants selected once at run time by CPU features.
//! Results do not depend on the number of threads: work is split by output element, and each is summed in a fixed
//! order.
//!
//! # Arguments
//! Weights come from files: [`weight_matrix::WeightMatrix::new`] returns an error if parts do not match their shape.
//! All other sizes must match by the caller's contract. Each function nevertheless checks them once, in
//! overflow-checked arithmetic, before it begins: if it panics as documented under `# Panics`, nothing was written and
//! no other thread was involved. Indices and positions in data are checked on use. Safe functions are sound for all
//! arguments.

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        unused_unsafe,
        reason = "what only registers of certain sets use; sets that a module has or has not, without detection"
    )
)]

pub mod activation;
mod aligned;
pub mod argmax;
pub mod buffer_pool;
pub mod cached_attention;
pub mod conv;
mod dispatch;
pub mod elementwise;
pub mod expand;
pub mod forest;
pub mod fp16;
pub mod gather;
#[cfg(target_arch = "x86_64")]
mod horizontal_sum;
pub mod isa;
pub mod math;
pub mod matmul;
pub mod matvec;
pub mod norm;
pub mod packed;
pub mod parallel;
pub mod reduce;
pub mod resample;
pub mod rotary;
pub mod scatter;
mod simd;
mod sizes;
pub mod softmax;
pub mod sort;
pub mod strided;
pub mod weight_matrix;
