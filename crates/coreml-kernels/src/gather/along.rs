//! Gathers by indices that are computed: along a dimension, and of whole slices.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::Indices;
use crate::buffer_pool::{Element, alloc_rows_with, alloc_with};
use crate::parallel::{SPLIT, TASK};
use crate::sizes::checked;

/// Gathers `[outer, n, inner]` along `n`: `[outer, m, inner]`, where the indices have the shape of the result.
///
/// # Errors
/// An index that is out of range; where there are several, any of them.
///
/// # Panics
/// If sizes do not match.
pub fn index_select_along<T: Element>(x: &[T], indices: Indices<'_>, m: usize, inner: usize) -> Result<Vec<T>, i64> {
    let (at, n) = (indices.at, indices.n);
    if at.is_empty() || n == 0 {
        return at.first().map_or(Ok(Vec::new()), |&index| Err(index));
    }
    let sizes = checked([m, inner])
        .zip(checked([n, inner]))
        .filter(|&(width, slab)| at.len().is_multiple_of(width) && checked([at.len() / width, slab]) == Some(x.len()));
    let (_, slab) = sizes.expect("sizes of the operands");
    let chunk = if at.len() < SPLIT { at.len() } else { TASK };
    let refused = OnceLock::new();
    // SAFETY: every element of a chunk is visited.
    let data = unsafe {
        alloc_with(at.len(), chunk, |task, out: &mut [MaybeUninit<T>]| {
            let (mut done, mut inside) = (0, true);
            while done < out.len() {
                // A segment of `inner` elements, or the part in the chunk.
                let first = task * chunk + done;
                let (line, from) = (first / inner, first % inner);
                let count = if inner == 1 { m - line % m } else { inner - from }.min(out.len() - done);
                let slab = &x[line / m * slab..][..slab];
                let places = out[done..done + count].iter_mut().zip(&at[first..]);
                for (i, (o, &at)) in places.enumerate() {
                    let (at, is_inside) = indices.position_within(at);
                    inside &= is_inside;
                    o.write(if inner == 1 { slab[at] } else { slab[at * inner + from + i] });
                }
                done += count;
            }
            let part = &at[task * chunk..][..out.len()];
            if !inside && let Some(&index) = part.iter().find(|&&index| !indices.position_within(index).1) {
                _ = refused.set(index);
            }
        })
    };
    refused.into_inner().map_or(Ok(data), Err)
}

/// Gathers slices of `size` elements that start at given offsets.
///
/// # Panics
/// If a slice lies outside of `x` or the size of the result overflows.
pub fn slices<T: Element>(x: &[T], starts: &[usize], size: usize) -> Vec<T> {
    let len = checked([starts.len(), size]).expect("size of the result");
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: every element of each slice is written.
    unsafe {
        alloc_rows_with(len, size, |first, out: &mut [MaybeUninit<T>]| {
            let starts = &starts[first..];
            if size == 1 {
                out.iter_mut().zip(starts).for_each(|(o, &start)| {
                    o.write(x[start]);
                });
            } else {
                for (o, &start) in out.chunks_exact_mut(size).zip(starts) {
                    o.write_copy_of_slice(&x[start..start + size]);
                }
            }
        })
    }
}
