//! CPU kernels on weights as model files store them: slices in, slices out.
//!
//! - [`weight_matrix`]: dense, palettized and block-wise quantized matrices.
//! - [`matvec`], [`matmul`], [`packed`]: products; the table below says which runs when.
//! - [`conv`]: convolution and pooling of channels-last images. [`resample`]: interpolation.
//! - [`cached_attention`]: grouped-query attention over an fp16 KV cache, in place. [`packed::sdpa`]: attention over whole
//!   sequences.
//! - [`softmax`], [`norm`], [`reduce`], [`rotary`]: over an axis, of rows, over an axis, position embedding.
//! - [`math`]: branch-free elementary functions. [`elementwise`]: functions over whole tensors. [`activation`]: fused into
//!   products.
//! - [`gather`]: index selection, concatenation, contiguous copies of any element type. [`sort`]: argsort and top-k.
//! - [`fp16`]: conversions. [`strided`]: operands in any memory order.
//! - [`parallel`]: thread pool. [`buffer_pool`]: result buffers.
//!
//! | product | weights | runs |
//! |---|---|---|
//! | vector (decoding) | any stored form | [`matvec`]; in 16-bit fixed point where the input is fp16 and the CPU has VNNI |
//! | 2 rows of `x` | any stored form | [`matvec`], row by row |
//! | more rows | palettized, block-wise quantized, fp16 | [`matmul`]; fixed point as above |
//! | 8 or more rows | dense f32 constants | [`packed`], packed at load |
//! | two computed matrices | f32 | [`packed::multiply`], the right one packed per call |
//! | patches of an image | dense f32 constants | [`conv::conv_packed`] over [`packed`]; 3×3 with enough tiles: [`conv::Winograd`] |
//!
//! Arithmetic is f32. Every kernel has a scalar definition and variants chosen once, at run time, by what the CPU has. A
//! result does not depend on the number of threads: work is split by output element, and each is summed in a fixed order.
//!
//! # Arguments
//! Weights come from files: [`weight_matrix::WeightMatrix::new`] returns an error when parts do not fit their shape. All other
//! sizes are the caller's; that they fit each other is the caller's contract. Each function still checks them, once and in
//! overflow-checked arithmetic, before it begins: where `# Panics` says that sizes do not fit, nothing was written and no
//! other thread took part. Indices and positions that are data are checked where they are used. Safe functions are sound for
//! all arguments.

pub mod activation;
mod aligned;
pub mod buffer_pool;
pub mod cached_attention;
pub mod conv;
mod dispatch;
pub mod elementwise;
pub mod expand;
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
mod simd;
mod sizes;
pub mod softmax;
pub mod sort;
pub mod strided;
pub mod weight_matrix;
