//! Instruction sets: what the CPU has, and which of them kernels may use.
//!
//! A kernel lists its variants best first, each with the [`Isa`] that it needs; the first that is
//! [`enabled`](Isa::enabled) runs. `CANDLE_COREML_ISA=avx2` disables every set above AVX2 in the process, so that each set can
//! be tested and measured on one machine.

use std::sync::OnceLock;

/// Name of the environment variable that limits the instruction sets.
pub const VARIABLE: &str = "CANDLE_COREML_ISA";

/// An instruction set that kernels are written for. Those of one architecture are ordered, the widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// x86-64: AVX-512 F, BW, VL, DQ, VBMI and VNNI, with FMA and F16C.
    Avx512Vbmi,
    /// x86-64: AVX-512 F, BW, VL and DQ, with FMA and F16C.
    Avx512,
    /// x86-64: AVX2, FMA, F16C and AVX-VNNI.
    AvxVnni,
    /// x86-64: AVX2, FMA and F16C.
    Avx2,
    /// AArch64: NEON with dot products and 8-bit integer matrix products.
    NeonI8mm,
    /// AArch64: NEON with dot products.
    NeonDot,
    /// AArch64: NEON, which every such CPU has.
    Neon,
    /// WebAssembly: 128-bit vectors, where the module was compiled with them.
    Simd128,
    /// The scalar definition of every kernel.
    Scalar,
}

/// Every set with its name, the widest of an architecture first.
pub const ALL: &[(Isa, &str)] = &[
    (Isa::Avx512Vbmi, "avx512-vbmi"),
    (Isa::Avx512, "avx512"),
    (Isa::AvxVnni, "avx-vnni"),
    (Isa::Avx2, "avx2"),
    (Isa::NeonI8mm, "neon-i8mm"),
    (Isa::NeonDot, "neon-dotprod"),
    (Isa::Neon, "neon"),
    (Isa::Simd128, "simd128"),
    (Isa::Scalar, "scalar"),
];

impl Isa {
    /// Its name in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(isa, _)| *isa == self).map_or("scalar", |(_, name)| name)
    }

    /// The set of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        ALL.iter().find(|(_, known)| *known == name).map(|(isa, _)| *isa)
    }

    /// Whether this CPU has it.
    pub fn detected(self) -> bool {
        detected(self)
    }

    /// Whether kernels may use it: the CPU has it, and [`VARIABLE`] names neither a lower set nor one of another
    /// architecture.
    #[inline]
    pub fn enabled(self) -> bool {
        static ENABLED: OnceLock<u16> = OnceLock::new();
        let enabled = ENABLED.get_or_init(|| {
            let widest = requested().ok().flatten();
            ALL.iter().map(|(isa, _)| *isa).filter(|&isa| allows(widest, isa) && isa.detected()).fold(0, with)
        });
        enabled & with(0, self) != 0
    }
}

fn with(set: u16, isa: Isa) -> u16 {
    set | 1 << isa as u16
}

/// Whether a set may be used where `widest` is the widest one.
fn allows(widest: Option<Isa>, isa: Isa) -> bool {
    // The scalar definition must always be there.
    widest.is_none_or(|widest| isa >= widest) || isa == Isa::Scalar
}

/// What [`VARIABLE`] names; none where it is not set.
///
/// # Errors
/// With the value that is no name of [`ALL`], or names a set that this CPU lacks. Kernels then use what the CPU has.
pub fn requested() -> Result<Option<Isa>, String> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    Isa::from_name(&value).filter(|isa| isa.detected()).map(Some).ok_or(value)
}

/// The widest set that is enabled.
pub fn widest() -> Isa {
    ALL.iter().map(|(isa, _)| *isa).find(|isa| isa.enabled()).unwrap_or(Isa::Scalar)
}

/// The first variant whose set is enabled; lists end with the scalar definition.
///
/// # Panics
/// When no variant is enabled.
pub(crate) fn best<T>(variants: &[T], isa: impl Fn(&T) -> Isa) -> &T {
    variants.iter().find(|v| isa(v).enabled()).expect("a scalar definition")
}

#[cfg(target_arch = "x86_64")]
fn detected(isa: Isa) -> bool {
    let avx2 =
        || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = || {
        avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
    };
    match isa {
        Isa::Avx512Vbmi => avx512() && is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vnni"),
        Isa::Avx512 => avx512(),
        Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
        Isa::Avx2 => avx2(),
        Isa::NeonI8mm | Isa::NeonDot | Isa::Neon | Isa::Simd128 => false,
        Isa::Scalar => true,
    }
}

#[cfg(target_arch = "aarch64")]
fn detected(isa: Isa) -> bool {
    use std::arch::is_aarch64_feature_detected;
    match isa {
        Isa::NeonI8mm => is_aarch64_feature_detected!("dotprod") && is_aarch64_feature_detected!("i8mm"),
        Isa::NeonDot => is_aarch64_feature_detected!("dotprod"),
        Isa::Neon | Isa::Scalar => true,
        Isa::Avx512Vbmi | Isa::Avx512 | Isa::AvxVnni | Isa::Avx2 | Isa::Simd128 => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected(isa: Isa) -> bool {
    isa == Isa::Scalar || (isa == Isa::Simd128 && cfg!(target_feature = "simd128"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for (i, (isa, name)) in ALL.iter().enumerate() {
            assert_eq!((isa.name(), Isa::from_name(name), *isa as usize), (*name, Some(*isa), i));
        }
        assert_eq!(Isa::from_name("sse9"), None);
    }

    #[test]
    fn a_lower_set_leaves_those_below_it() {
        assert!(allows(None, Isa::Avx512Vbmi) && allows(Some(Isa::Avx2), Isa::Avx2));
        assert!(!allows(Some(Isa::Avx2), Isa::AvxVnni) && !allows(Some(Isa::Scalar), Isa::Avx2));
        assert!(allows(Some(Isa::NeonI8mm), Isa::Scalar) && Isa::Scalar.enabled());
        assert!(widest().enabled() && widest().detected());
    }
}
