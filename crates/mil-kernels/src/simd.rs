//! Registers of one instruction set, for tile bodies that are written once.
//!
//! A body generic over [`Vector`] is `#[inline(always)]` and is called from one function per instruction set, which enables
//! its features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::AvxVnni;

/// Elements in one register.
///
/// # Safety
/// Every function may only run where the CPU has the instruction set of the implementation. Pointers must be valid for
/// [`LANES`](Self::LANES) elements, or for `count` of them.
pub(crate) trait Vector: Copy {
    /// Elements of a register.
    const LANES: usize;
    /// The same element in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// Elements from `from` on.
    unsafe fn load(from: *const f32) -> Self;
    /// As many fp16 elements from `from` on, widened.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// The first `count` elements, at most a register; zeros behind them.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// Writes all lanes.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count` lanes.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    /// `self + a · b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    unsafe fn plus(self, other: Self) -> Self;
    /// `self − other`.
    unsafe fn minus(self, other: Self) -> Self;
    /// `self · other`.
    unsafe fn times(self, other: Self) -> Self;
    /// Zero where a lane is less than `least`; NaN stays.
    unsafe fn kept_from(self, least: Self) -> Self;
    /// No less than `low` and no more than `high`; NaN stays.
    unsafe fn between(self, low: Self, high: Self) -> Self;
    /// Asks for a line of the cache that will be read.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    /// The sum of the lanes of each of four registers.
    unsafe fn totals(registers: [Self; 4]) -> [f32; 4];
    /// The larger of each pair of lanes; NaN where one is.
    unsafe fn larger(self, other: Self) -> Self;
}

/// Bytes of one register, for look-ups and exact products of 16-bit integers. A register of more than 128 bits looks up and
/// interleaves within each of its 128-bit lanes.
///
/// # Safety
/// Every function may only run where the CPU has the instruction set of the implementation. Pointers must be valid for
/// the bytes that each function names.
pub(crate) trait Bytes: Copy {
    /// 128-bit lanes of a register.
    const LANES: usize;
    /// 32-bit sums, four for each lane.
    type Sums: Copy;
    /// `f32` sums, four for each lane.
    type Floats: Copy;
    /// A register from `from` on: `16 · LANES` bytes.
    unsafe fn load(from: *const u8) -> Self;
    /// The 16 bytes from `from` on, in every lane.
    unsafe fn broadcast(from: *const u8) -> Self;
    /// The low four bits of every byte.
    unsafe fn low_nibbles(self) -> Self;
    /// The high four bits of every byte.
    unsafe fn high_nibbles(self) -> Self;
    /// The byte of the table at each index below 16.
    unsafe fn look_up(self, index: Self) -> Self;
    /// The byte of four tables, one behind the other, at each index below 64.
    unsafe fn look_up_64(tables: [Self; 4], index: Self) -> Self;
    /// 16-bit integers of low and high bytes: those of the first eight bytes of each lane, and of the last eight.
    unsafe fn interleave(low: Self, high: Self) -> (Self, Self);
    /// No sums.
    unsafe fn zero() -> Self::Sums;
    /// Adds the products of 16-bit integers with those from `x` on, `8 · LANES` of them: two to each sum.
    unsafe fn add_products(sums: Self::Sums, words: Self, x: *const i16) -> Self::Sums;
    /// No `f32` sums.
    unsafe fn zero_floats() -> Self::Floats;
    /// `floats + sums · scale`, with the scale of each lane from `scales` on.
    unsafe fn add_scaled(floats: Self::Floats, sums: Self::Sums, scales: *const f32) -> Self::Floats;
    /// `floats + sums · scale`.
    unsafe fn add_scaled_all(floats: Self::Floats, sums: Self::Sums, scale: f32) -> Self::Floats;
    /// The sum of all lanes.
    unsafe fn total(floats: Self::Floats) -> f32;
    /// Signed bytes as 16-bit integers, as [`interleave`](Self::interleave) orders them.
    unsafe fn widen_signed(self) -> (Self, Self);
    /// Unsigned bytes as 16-bit integers, as [`interleave`](Self::interleave) orders them.
    unsafe fn widen_unsigned(self) -> (Self, Self);
    /// Writes the lanes, `distance` bytes from each other.
    unsafe fn store_lanes(self, to: *mut u8, distance: usize);
    /// Writes the eight fp16 elements of each lane as `f32`, those of one lane `distance` elements after the other's.
    unsafe fn store_halves(self, to: *mut f32, distance: usize);
}
