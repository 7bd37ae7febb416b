//! SIMD registers of one instruction set, for generic kernel bodies.
//!
//! A body generic over [`Vector`] is `#[inline(always)]` and called from one function per instruction set, which
//! enables its features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::AvxVnni;

/// A register of `f32` elements.
///
/// # Safety
/// The CPU must support the implementation's instruction set. Pointers must be valid for [`LANES`](Self::LANES)
/// elements, or for `count` of them.
pub(crate) trait Vector: Copy {
    /// Number of elements per register.
    const LANES: usize;
    /// Broadcasts an element.
    unsafe fn splat(value: f32) -> Self;
    /// Loads elements.
    unsafe fn load(from: *const f32) -> Self;
    /// Loads fp16 elements and widens them.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// Loads the first `count` elements, at most a register; the rest are zero.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// Stores all lanes.
    unsafe fn store(self, to: *mut f32);
    /// Stores the first `count` lanes.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    /// `self + a · b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    unsafe fn plus(self, other: Self) -> Self;
    /// `self − other`.
    unsafe fn minus(self, other: Self) -> Self;
    /// `self · other`.
    unsafe fn times(self, other: Self) -> Self;
    /// Zeroes lanes less than `least`; propagates NaN.
    unsafe fn kept_from(self, least: Self) -> Self;
    /// Clamps to `low ..= high`; propagates NaN.
    unsafe fn between(self, low: Self, high: Self) -> Self;
    /// Prefetches a cache line.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    /// Sums of the lanes of each of four registers.
    unsafe fn totals(registers: [Self; 4]) -> [f32; 4];
    /// Lanewise maximum; propagates NaN.
    unsafe fn larger(self, other: Self) -> Self;
}

/// A register of bytes, for look-ups and exact products of 16-bit integers. Registers of more than 128 bits look up and
/// interleave within each 128-bit lane.
///
/// # Safety
/// The CPU must support the implementation's instruction set. Pointers must be valid for the bytes named by each
/// function.
pub(crate) trait Bytes: Copy {
    /// Number of 128-bit lanes per register.
    const LANES: usize;
    /// 32-bit sums, four per lane.
    type Sums: Copy;
    /// `f32` sums, four per lane.
    type Floats: Copy;
    /// Loads `16 · LANES` bytes.
    unsafe fn load(from: *const u8) -> Self;
    /// Prefetches a cache line; the address need not be valid.
    #[inline(always)]
    unsafe fn fetch(_at: *const u8) {}
    /// Broadcasts 16 bytes to every lane.
    unsafe fn broadcast(from: *const u8) -> Self;
    /// The low four bits of every byte.
    unsafe fn low_nibbles(self) -> Self;
    /// The high four bits of every byte.
    unsafe fn high_nibbles(self) -> Self;
    /// Looks up table bytes at indices below 16.
    unsafe fn look_up(self, index: Self) -> Self;
    /// Looks up bytes of four concatenated tables at indices below 64.
    unsafe fn look_up_64(tables: [Self; 4], index: Self) -> Self;
    /// 16-bit integers from low and high bytes: those of the first eight bytes of each lane, and of the last eight.
    unsafe fn interleave(low: Self, high: Self) -> (Self, Self);
    /// Zero sums.
    unsafe fn zero() -> Self::Sums;
    /// Adds products of 16-bit integers with the `8 · LANES` at `x`: two to each sum.
    unsafe fn add_products(sums: Self::Sums, words: Self, x: *const i16) -> Self::Sums;
    /// Zero `f32` sums.
    unsafe fn zero_floats() -> Self::Floats;
    /// `floats + sums · scale`, with a scale per lane from `scales`.
    unsafe fn add_scaled(floats: Self::Floats, sums: Self::Sums, scales: *const f32) -> Self::Floats;
    /// `floats + sums · scale`.
    unsafe fn add_scaled_all(floats: Self::Floats, sums: Self::Sums, scale: f32) -> Self::Floats;
    /// The sum of all lanes.
    unsafe fn total(floats: Self::Floats) -> f32;
    /// Widens signed bytes to 16-bit integers, in the order of [`interleave`](Self::interleave).
    unsafe fn widen_signed(self) -> (Self, Self);
    /// Widens unsigned bytes to 16-bit integers, in the order of [`interleave`](Self::interleave).
    unsafe fn widen_unsigned(self) -> (Self, Self);
    /// Stores the lanes, `distance` bytes apart.
    unsafe fn store_lanes(self, to: *mut u8, distance: usize);
    /// Stores the eight fp16 elements of each lane as `f32`, with lanes `distance` elements apart.
    unsafe fn store_halves(self, to: *mut f32, distance: usize);
}
