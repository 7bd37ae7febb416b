//! Run-time dispatch of plain loops to the CPU's widest vectors.

use crate::isa::Isa;

/// A loop that [`dispatch`] compiles for each instruction set. Implementations of `run` are `#[inline(always)]` and use
/// `for`: calls that the compiler does not inline, such as `fold` with a long closure, are compiled for the baseline.
pub(crate) trait SimdOp {
    /// Result type.
    type Output;
    /// Computes the result; `FMA` is true if the CPU fuses multiply and add, for work with such steps.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs the work with AVX-512 or AVX2 if available. Results are the same everywhere, since Rust neither reorders nor
/// fuses float arithmetic; work that fuses steps itself differs by rounding once instead of twice.
#[inline(always)]
pub(crate) fn dispatch<W: SimdOp>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
        fn avx512<W: SimdOp>(work: W) -> W::Output {
            work.run::<true>()
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<W: SimdOp>(work: W) -> W::Output {
            work.run::<true>()
        }
        if Isa::Avx512.enabled() {
            // SAFETY: the instruction set is enabled.
            return unsafe { avx512(work) };
        }
        if Isa::Avx2.enabled() {
            // SAFETY: the instruction set is enabled.
            return unsafe { avx2(work) };
        }
    }
    if Isa::Neon.enabled() { work.run::<true>() } else { work.run::<false>() }
}
