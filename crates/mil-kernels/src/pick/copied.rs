//! Strided elements in row-major order: stretches are copied, dimensions that change places go by squares.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{Along, Places, pick};
use crate::parallel::{SPLIT, Shared, TASK, for_each};
use crate::strided::{Strided, joined};

/// Rows of a block: as many elements as a line of the cache has.
const ROWS: usize = 16;
/// Side of the squares that registers exchange.
const SIDE: usize = 8;

/// Strided elements in row-major order.
///
/// # Panics
/// When the operand does not cover the shape.
pub fn copied<T: Copy + Send + Sync>(shape: &[usize], x: Strided<'_, T>) -> Vec<T> {
    if shape.contains(&0) {
        return Vec::new();
    }
    assert!(x.fits(shape), "the operand covers the shape");
    let dims: Vec<(usize, usize)> = joined(shape, x.strides, x.strides).iter().map(|d| (d.0, d.1)).collect();
    if let (Some(&(_, 2..)), Some(near)) = (dims.last(), dims.iter().rposition(|d| d.1 == 1)) {
        return exchanged(&dims, near, x.data);
    }
    let places: Vec<Places> = dims.iter().map(|d| Places::Run(0..d.0)).collect();
    let dims: Vec<Along<'_>> = dims.iter().zip(&places).map(|(d, places)| Along { stride: d.1, places }).collect();
    pick(x.data, &dims, x.data[0])
}

/// The elements of `dims`, extents and strides, of which `near` has a stride of one and is not the last.
fn exchanged<T: Copy + Send + Sync>(dims: &[(usize, usize)], near: usize, x: &[T]) -> Vec<T> {
    let len: usize = dims.iter().map(|d| d.0).product();
    let (width, step) = dims[dims.len() - 1];
    let behind = |d: usize| dims[d + 1..].iter().map(|d| d.0).product::<usize>();
    let (height, distance) = (dims[near].0, behind(near));
    // The other dimensions: extent, stride, stride in the result.
    let others = (0..dims.len() - 1).filter(|&d| d != near);
    let outer: Vec<(usize, usize, usize)> = others.map(|d| (dims[d].0, dims[d].1, behind(d))).collect();
    let blocks = height.div_ceil(ROWS);
    let count = blocks * outer.iter().map(|d| d.0).product::<usize>();
    let run = if len < SPLIT { count } else { TASK.div_ceil(len.div_ceil(count)) };
    let mut out: Vec<T> = Vec::with_capacity(len);
    let base = Shared(out.as_mut_ptr());
    for_each(count.div_ceil(run), |task| {
        for block in task * run..((task + 1) * run).min(count) {
            let (mut from, mut to, mut index) = (0, 0, block / blocks);
            for &(n, stride, target) in outer.iter().rev() {
                (from, to, index) = (from + index % n * stride, to + index % n * target, index / n);
            }
            let rows = block % blocks * ROWS..((block % blocks + 1) * ROWS).min(height);
            // SAFETY: indices of distinct blocks differ, and so do the elements they write; all of them lie in the
            // shape, which the operand covers and the capacity holds.
            unsafe { exchange(&x[from..], step, rows, width, base.get().add(to).cast(), distance) };
        }
    });
    // SAFETY: the blocks were all elements.
    unsafe { out.set_len(len) };
    out
}

/// `out[i · distance + j] = x[i + j · step]` for the rows `i` and all `j < width`.
///
/// # Safety
/// `out` may be written at all these places.
unsafe fn exchange<T: Copy>(
    x: &[T],
    step: usize,
    rows: Range<usize>,
    width: usize,
    out: *mut MaybeUninit<T>,
    distance: usize,
) {
    assert!(rows.end > rows.start && (width - 1) * step + rows.end <= x.len(), "elements of a block");
    let (mut row, mut column) = (rows.start, 0);
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == 4 && is_x86_feature_detected!("avx") {
        column = width - width % SIDE;
        while row + SIDE <= rows.end {
            for j in (0..column).step_by(SIDE) {
                // SAFETY: the square lies in the block; the elements have the size of floats.
                unsafe {
                    let (x, out) = (x.as_ptr().add(row + j * step), out.add(row * distance + j));
                    x86::square(x.cast(), step, out.cast(), distance);
                }
            }
            row += SIDE;
        }
    }
    let rest = |rows: Range<usize>, columns: Range<usize>| {
        for j in columns {
            for i in rows.clone() {
                // SAFETY: the place is one of the block's; the source was checked above.
                unsafe { (*out.add(i * distance + j)).write(*x.get_unchecked(i + j * step)) };
            }
        }
    };
    rest(rows.start..row, column..width);
    rest(row..rows.end, 0..width);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::SIDE;

    /// `out[i · distance + j] = x[i + j · step]` for a square.
    ///
    /// # Safety
    /// The CPU has AVX; elements may be read and written there.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn square(x: *const f32, step: usize, out: *mut f32, distance: usize) {
        // SAFETY: the caller's.
        let v: [__m256; SIDE] = std::array::from_fn(|j| unsafe { _mm256_loadu_ps(x.add(j * step)) });
        // Pairs of columns, fours, and all eight.
        let pairs: [__m256; SIDE] = std::array::from_fn(|i| match i % 2 {
            0 => _mm256_unpacklo_ps(v[i], v[i + 1]),
            _ => _mm256_unpackhi_ps(v[i - 1], v[i]),
        });
        let fours: [__m256; SIDE] = std::array::from_fn(|i| {
            let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
            if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xee>(a, b) }
        });
        for i in 0..SIDE / 2 {
            let (a, b) = (fours[i], fours[i + SIDE / 2]);
            // SAFETY: the caller's.
            unsafe {
                _mm256_storeu_ps(out.add(i * distance), _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(out.add((i + SIDE / 2) * distance), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
}
