//! CPU kernels that compute from weights as model files store them: slices in, slices out.
//!
//! - [`mat`]: matrices in dense, palettized and block-wise quantized form.
//! - [`matvec`]: matrix × vector, the work of decoding one token. [`matmul`]: matrix × panel, prefill.
//! - [`packed`]: dense weights in panels, packed once; what follows a product is done in registers.
//! - [`softmax`] along an axis. [`norm`]: normalization of rows. [`rotary`]: rotary position embedding.
//! - [`elementary`]: exponentials, logarithms and their kin for loops in registers. [`elementwise`]: functions along whole
//!   tensors. [`activation`]: what follows a product. [`reduce`]: reductions and running sums along an axis.
//! - [`fp16`]: conversions. [`strided`]: operands in any order of memory.
//! - [`conv`]: convolutions and pooling of channels-last images. [`resample`]: images between their elements.
//! - [`pick`]: copies by position, of any element type. [`rank`]: the order of the elements of rows.
//! - [`attention`]: grouped-query attention that reads an fp16 KV cache in place.
//! - [`parallel`]: threads that stay awake between kernels.
//!
//! Arithmetic is f32. Every kernel has a scalar definition and variants that are chosen once, at run
//! time, by what the CPU can do. A result does not depend on the number of threads: work is split by
//! output element, and each is summed in a fixed order.
//!
//! # Arguments
//! Weights come from files: [`mat::WeightMat::new`] answers with an error when parts do not fit their shape. All other
//! sizes are the caller's own, and that they fit each other is for the caller to know. Each function checks them all the
//! same, once and in arithmetic that does not wrap, before it begins: where `# Panics` says that sizes do not fit, nothing
//! was written and no other thread took part. Only indices and positions that are data are looked at where they are used.
//! A size that no memory can have is refused like one that does not fit. Safe functions are sound for all arguments.

pub mod activation;
mod aligned;
pub mod attention;
pub mod conv;
pub mod elementary;
pub mod elementwise;
pub mod fp16;
pub mod fresh;
pub mod mat;
pub mod matmul;
pub mod matvec;
pub mod norm;
pub mod packed;
pub mod parallel;
pub mod pick;
pub mod rank;
pub mod reduce;
pub mod resample;
pub mod rotary;
mod sizes;
pub mod softmax;
pub mod strided;
#[cfg(target_arch = "x86_64")]
mod sums;
mod vector;
mod vectorized;
