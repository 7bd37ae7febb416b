//! Runtime dispatch of plain loops to the widest vectors of the CPU.

use crate::isa::Isa;

/// Work whose body [`dispatch`] compiles once for each instruction set; implementations of `run` are
/// `#[inline(always)]` and loop with `for`: what the compiler does not inline, such as the `fold` of a long closure, keeps
/// the baseline's instructions.
pub(crate) trait SimdOp {
    /// What it computes.
    type Output;
    /// Computes it; `FMA` where the CPU multiplies and adds in one instruction, for work that has steps of that kind.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs the work with AVX-512 or AVX2 where the CPU has them. Results are the same everywhere, since Rust neither reorders
/// nor fuses arithmetic on floats; those of work that fuses steps itself differ by what is rounded once instead of twice.
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
