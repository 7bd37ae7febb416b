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
    let mut out: Vec<T> = Vec::with_capacity(len);
    chunks_mut(&mut out.spare_capacity_mut()[..len], size, work);
    // SAFETY: the capacity is there, the chunks cover it, and the caller's closure wrote all of them.
    unsafe { out.set_len(len) };
    out
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
    let mut out: Vec<T> = Vec::with_capacity(len);
    rows_mut(&mut out.spare_capacity_mut()[..len], size, work);
    // SAFETY: the capacity is there, the rows cover it, and the caller's closure wrote all of them.
    unsafe { out.set_len(len) };
    out
}
