//! Results in memory that was not filled before.

use std::mem::MaybeUninit;

use crate::parallel::{chunks_mut, rows_mut};

/// A vector of `len` elements that `work(i, chunk)` writes in chunks of `size`, on several threads.
///
/// # Safety
/// `work` writes every element of its chunk.
pub(crate) unsafe fn filled<T: Send>(
    len: usize,
    size: usize,
    work: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    // SAFETY: the chunks cover the elements, and the caller's closure writes all of them.
    unsafe { written(len, |out| chunks_mut(out, size, work)) }
}

/// A vector of `len` elements that `work(first row, rows)` writes as runs of whole rows of `size`, as [`rows_mut`] does.
///
/// # Safety
/// `work` writes every element of its rows.
pub(crate) unsafe fn filled_rows<T: Copy + Send>(
    len: usize,
    size: usize,
    work: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    // SAFETY: the rows cover the elements, and the caller's closure writes all of them.
    unsafe { written(len, |out| rows_mut(out, size, work)) }
}

/// A vector of `len` elements that `write` writes.
///
/// # Safety
/// `write` writes every element.
unsafe fn written<T>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out: Vec<T> = Vec::with_capacity(len);
    write(&mut out.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is there, and the caller's closure wrote it.
    unsafe { out.set_len(len) };
    out
}
