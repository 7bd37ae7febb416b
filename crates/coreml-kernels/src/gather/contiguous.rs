//! Copies strided elements to row-major order: contiguous segments are copied, transposes use square blocks.

use std::mem::MaybeUninit;
use std::ops::{Range, RangeInclusive};

use super::{Axis, AxisIndices, index_select};
use crate::buffer_pool::Element;
use crate::parallel::{SPLIT, Shared, TASK, for_each};
use crate::sizes::size_of_shape;
use crate::strided::{Strided, joined};

/// Rows of a block: whole cache lines.
const ROWS: RangeInclusive<usize> = 16..=512;
/// Elements of a block, for narrow matrices.
const BLOCK: usize = 1 << 12;

/// Copies strided elements to row-major order.
///
/// # Panics
/// If the operand does not cover the shape or its size overflows.
pub fn contiguous<T: Element>(shape: &[usize], x: Strided<'_, T>) -> Vec<T> {
    if shape.contains(&0) {
        return Vec::new();
    }
    // Also bounds the products of extents below: repeated elements are not in the operand.
    size_of_shape(shape);
    assert!(x.fits(shape), "the operand covers the shape");
    let dims: Vec<(usize, usize)> = joined(shape, x.strides, x.strides).iter().map(|d| (d.0, d.1)).collect();
    if let (Some(&(_, 2..)), Some(near)) = (dims.last(), dims.iter().rposition(|d| d.1 == 1)) {
        return exchanged(&dims, near, x.data);
    }
    let places: Vec<AxisIndices> = dims.iter().map(|d| AxisIndices::Run(0..d.0)).collect();
    let dims: Vec<Axis<'_>> = dims.iter().zip(&places).map(|(d, places)| Axis { stride: d.1, places }).collect();
    index_select(x.data, &dims, x.data[0])
}

/// Copies `dims` (extents and strides), of which `near` has stride one and is not the last; `x` covers them.
fn exchanged<T: Element>(dims: &[(usize, usize)], near: usize, x: &[T]) -> Vec<T> {
    let len: usize = dims.iter().map(|d| d.0).product();
    let (width, step) = dims[dims.len() - 1];
    let behind = |d: usize| dims[d + 1..].iter().map(|d| d.0).product::<usize>();
    let (height, distance) = (dims[near].0, behind(near));
    // The other dimensions: extent, source stride, result stride.
    let others = (0..dims.len() - 1).filter(|&d| d != near);
    let outer: Vec<(usize, usize, usize)> = others.map(|d| (dims[d].0, dims[d].1, behind(d))).collect();
    let tall = (BLOCK / width / ROWS.start() * ROWS.start()).clamp(*ROWS.start(), *ROWS.end());
    let blocks = height.div_ceil(tall);
    let count = blocks * outer.iter().map(|d| d.0).product::<usize>();
    let run = if len < SPLIT { count } else { TASK.div_ceil(len.div_ceil(count)) };
    let mut out = T::room(len);
    assert!(out.capacity() >= len, "room for the result");
    let base = Shared(out.as_mut_ptr());
    for_each(count.div_ceil(run), |task| {
        for block in task * run..((task + 1) * run).min(count) {
            let (mut from, mut to, mut index) = (0, 0, block / blocks);
            for &(n, stride, target) in outer.iter().rev() {
                (from, to, index) = (from + index % n * stride, to + index % n * target, index / n);
            }
            let rows = block % blocks * tall..((block % blocks + 1) * tall).min(height);
            // SAFETY: distinct blocks write distinct elements; all lie in the shape, which the operand covers and the
            // capacity holds.
            unsafe { exchange(&x[from..], step, rows, width, base.get().add(to).cast(), distance) };
        }
    });
    // SAFETY: the blocks cover all elements.
    unsafe { out.set_len(len) };
    out
}

/// `out[i · distance + j] = x[i + j · step]` for the rows `i` and all `j < width`.
///
/// # Safety
/// `out` must be writable at these offsets.
unsafe fn exchange<T: Copy>(
    x: &[T],
    step: usize,
    rows: Range<usize>,
    width: usize,
    out: *mut MaybeUninit<T>,
    distance: usize,
) {
    assert!(rows.end > rows.start && (width - 1) * step + rows.end <= x.len(), "elements of a block");
    if distance == width && width <= 4 {
        // SAFETY: consecutive rows are contiguous in `out`.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(rows.start * width), rows.len() * width) };
        match width {
            2 => return interleave::<T, 2>(x, step, rows, out),
            3 => return interleave::<T, 3>(x, step, rows, out),
            4 => return interleave::<T, 4>(x, step, rows, out),
            _ => {}
        }
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's contract, and the assertion above.
    let (row, column) = unsafe { x86::squares(x, step, rows.clone(), width, out, distance) };
    #[cfg(not(target_arch = "x86_64"))]
    let (row, column) = (rows.start, 0);
    let rest = |rows: Range<usize>, columns: Range<usize>| {
        for i in rows {
            for j in columns.clone() {
                // SAFETY: the offset lies in the block; the source was checked above.
                unsafe { (*out.add(i * distance + j)).write(*x.get_unchecked(i + j * step)) };
            }
        }
    };
    rest(rows.start..row, column..width);
    rest(row..rows.end, 0..width);
}

/// Interleaves a few columns into contiguous rows.
fn interleave<T: Copy, const W: usize>(x: &[T], step: usize, rows: Range<usize>, out: &mut [MaybeUninit<T>]) {
    let n = rows.len();
    let columns: [&[T]; W] = std::array::from_fn(|j| &x[j * step + rows.start..][..n]);
    for (i, out) in out.as_chunks_mut::<W>().0.iter_mut().enumerate().take(n) {
        for (o, column) in out.iter_mut().zip(columns) {
            o.write(column[i]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;
    use std::ops::Range;

    /// Side of the squares transposed in registers.
    const SIDE: usize = 8;

    /// [`exchange`](super::exchange) of whole squares, if the CPU supports it and elements have the size of floats;
    /// returns the first row and column left over.
    ///
    /// # Safety
    /// As for `exchange`; all elements of the rows lie in `x`.
    pub(super) unsafe fn squares<T: Copy>(
        x: &[T],
        step: usize,
        rows: Range<usize>,
        width: usize,
        out: *mut MaybeUninit<T>,
        distance: usize,
    ) -> (usize, usize) {
        let (mut row, columns) = (rows.start, width - width % SIDE);
        if size_of::<T>() != 4 || columns == 0 || !crate::isa::Isa::Avx2.enabled() {
            return (row, 0);
        }
        // The last square may read past its rows.
        while row < rows.end && (columns - 1) * step + row + SIDE <= x.len() {
            let count = SIDE.min(rows.end - row);
            for j in (0..columns).step_by(SIDE) {
                // SAFETY: the CPU has AVX; the square lies in `x` as just checked, and its rows in the caller's;
                // elements have the size of floats.
                unsafe {
                    let (x, out) = (x.as_ptr().add(row + j * step), out.add(row * distance + j));
                    square(x.cast(), step, out.cast(), distance, count);
                }
            }
            row += count;
        }
        (row, columns)
    }

    /// `out[i · distance + j] = x[i + j · step]` for the first `rows` of a square.
    ///
    /// # Safety
    /// The CPU must have AVX; the square must be readable, its first rows writable.
    #[target_feature(enable = "avx")]
    unsafe fn square(x: *const f32, step: usize, out: *mut f32, distance: usize, rows: usize) {
        // SAFETY: guaranteed by the caller.
        let v: [__m256; SIDE] = std::array::from_fn(|j| unsafe { _mm256_loadu_ps(x.add(j * step)) });
        // Interleave pairs of columns, then fours, then all eight.
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
            // SAFETY: guaranteed by the caller.
            unsafe {
                if i < rows {
                    _mm256_storeu_ps(out.add(i * distance), _mm256_permute2f128_ps::<0x20>(a, b));
                }
                if i + SIDE / 2 < rows {
                    _mm256_storeu_ps(out.add((i + SIDE / 2) * distance), _mm256_permute2f128_ps::<0x31>(a, b));
                }
            }
        }
    }
}
