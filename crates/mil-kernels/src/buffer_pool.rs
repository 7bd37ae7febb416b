//! Per-prediction buffer pool; buffers are handed out uninitialised.
//!
//! A fresh buffer costs about as much as the arithmetic that fills it: the system zeroes its pages on first touch, and many
//! allocators return large blocks at once. A [`BufferPool`] keeps the dead buffers of one prediction for later results.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use crate::parallel::{chunks_mut, rows_mut};

/// Elements below which memory is left to the allocator: 1 KB.
const LARGE: usize = 1 << 8;

/// Memory that results had.
#[derive(Debug, Default)]
pub struct Memory {
    free: Vec<Buffer>,
    /// Results since [`settle`]: where they begin, and their room.
    made: Vec<(usize, usize)>,
    /// Elements that are in use, and the most that were.
    used: usize,
    peak: usize,
}

#[derive(Debug)]
struct Buffer {
    data: Vec<f32>,
    /// Whether it was in use since [`Memory::lend`] began.
    recent: bool,
}

thread_local! {
    /// What results of this thread take their memory from.
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

impl Memory {
    /// Runs `f`, in which results that this thread makes take their memory from here. What `f` brings back with
    /// [`recycle`] stays for the next time, at most twice what was in use at once.
    pub fn lend<R>(&mut self, f: impl FnOnce() -> R) -> R {
        /// Takes the memory back, after a panic too.
        struct Lent<'a> {
            owner: &'a mut Memory,
            before: Option<Memory>,
        }
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                let lent = MEMORY.replace(self.before.take());
                *self.owner = lent.unwrap_or_default();
                self.owner.shrink();
            }
        }
        let mut memory = std::mem::take(self);
        memory.free.iter_mut().for_each(|b| b.recent = false);
        (memory.used, memory.peak) = (0, 0);
        memory.made.clear();
        let before = MEMORY.replace(Some(memory));
        let lent = Lent { owner: self, before };
        let result = f();
        drop(lent);
        result
    }

    /// Elements that are kept.
    pub fn kept(&self) -> usize {
        self.free.iter().map(|b| b.data.capacity()).sum()
    }

    /// Keeps no more than twice the peak, rather what was used.
    fn shrink(&mut self) {
        self.made.clear();
        while self.kept() > 2 * self.peak {
            let unused = self.free.iter().position(|b| !b.recent);
            self.free.swap_remove(unused.unwrap_or(0));
        }
    }

    /// The smallest buffer with room for `len` elements that is not far too large.
    fn take(&mut self, len: usize) -> Vec<f32> {
        let rooms = self.free.iter().map(|b| b.data.capacity()).enumerate();
        let found =
            rooms.filter(|&(_, room)| (len..=len.saturating_mul(2)).contains(&room)).min_by_key(|&(_, room)| room);
        let mut data = match found {
            Some((i, _)) => self.free.swap_remove(i).data,
            None => Vec::with_capacity(len),
        };
        data.clear();
        self.used += data.capacity();
        self.peak = self.peak.max(self.used);
        self.made.push((data.as_ptr() as usize, data.capacity()));
        data
    }
}

/// Asks of each result that was made since the last call, by the address at which it begins, whether it is still there.
pub fn settle(mut lives: impl FnMut(usize) -> bool) {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(memory) = memory {
            let gone = memory.made.drain(..).filter(|&(address, _)| !lives(address)).map(|(_, room)| room);
            memory.used = memory.used.saturating_sub(gone.sum());
        }
    });
}

/// Keeps the memory of a result that nobody needs any more.
pub fn recycle(data: Vec<f32>) {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(memory) = memory
            && data.capacity() >= LARGE
        {
            memory.used = memory.used.saturating_sub(data.capacity());
            memory.made.retain(|m| m.0 != data.as_ptr() as usize);
            memory.free.push(Buffer { data, recent: true });
        }
    });
}

/// Whether results were made since the last call of [`settle`].
pub fn has_made() -> bool {
    MEMORY.with_borrow(|memory| memory.as_ref().is_some_and(|memory| !memory.made.is_empty()))
}

/// Elements that are lent to this thread and not in use.
pub fn kept() -> usize {
    MEMORY.with_borrow(|memory| memory.as_ref().map_or(0, Memory::kept))
}

/// Gives what is lent to this thread and not in use back to the allocator.
pub fn release() {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(memory) = memory {
            memory.free.clear();
        }
    });
}

mod sealed {
    /// Keeps [`Element`](super::Element) to the types of this crate.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
    impl Sealed for u32 {}
    impl Sealed for i64 {}
    impl Sealed for half::f16 {}
}

/// Elements that results are made of. Only those in f32 take memory that others had; nearly all are.
///
/// Kernels write into the room without looking, so no other type can be one.
pub trait Element: sealed::Sealed + Copy + Send + Sync {
    /// An empty vector with room for `len` elements.
    fn room(len: usize) -> Vec<Self> {
        Vec::with_capacity(len)
    }
}

impl Element for f32 {
    fn room(len: usize) -> Vec<Self> {
        if len < LARGE {
            return Vec::with_capacity(len);
        }
        MEMORY.with_borrow_mut(|memory| match memory {
            Some(memory) => memory.take(len),
            None => Vec::with_capacity(len),
        })
    }
}

impl Element for u8 {}
impl Element for u32 {}
impl Element for i64 {}
impl Element for half::f16 {}

/// Zeros, in memory of results.
pub fn zeros(len: usize) -> Vec<f32> {
    let mut out = f32::room(len);
    out.resize(len, 0.0);
    out
}

/// A vector of `len` elements that `work(i, chunk)` writes in chunks of `size`, on several threads.
///
/// # Safety
/// `work` writes every element of its chunk.
pub(crate) unsafe fn alloc_with<T: Element>(
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
pub(crate) unsafe fn alloc_rows_with<T: Element>(
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
unsafe fn written<T: Element>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out = T::room(len);
    write(&mut out.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is there, and the caller's closure wrote it.
    unsafe { out.set_len(len) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_lent_again_if_it_fits() {
        let mut memory = Memory::default();
        let first = memory.lend(|| {
            let data = zeros(10_000);
            let address = data.as_ptr() as usize;
            let mut seen = Vec::new();
            settle(|address| {
                seen.push(address);
                true
            });
            assert_eq!(seen, [address]);
            settle(|_| panic!("asked once"));
            recycle(data);
            // Small ones are not kept.
            recycle(zeros(8));
            address
        });
        assert_eq!(memory.kept(), 10_000);
        memory.lend(|| {
            let smaller = zeros(9_000);
            assert_eq!(smaller.as_ptr() as usize, first, "room enough");
            let other = zeros(4_999);
            assert!(other.capacity() < 10_000);
        });
        assert_eq!(memory.kept(), 0, "it did not come back");
        // Outside of predictions memory is the allocator's.
        recycle(zeros(10_000));
        settle(|_| panic!("nothing is lent"));
    }

    #[test]
    fn no_more_is_kept_than_twice_what_was_in_use() {
        let mut memory = Memory::default();
        let run = |memory: &mut Memory, sizes: &[usize]| {
            memory.lend(|| sizes.iter().for_each(|&size| recycle(zeros(size))));
        };
        run(&mut memory, &[100_000]);
        run(&mut memory, &[8_000, 9_000, 30_000]);
        assert!(memory.kept() <= 60_000 && memory.kept() >= 30_000, "{}", memory.kept());
        run(&mut memory, &[]);
        assert_eq!(memory.kept(), 0);
    }

    #[test]
    fn what_is_not_in_use_can_be_released() {
        let mut memory = Memory::default();
        memory.lend(|| {
            let used = zeros(10_000);
            recycle(zeros(20_000));
            assert_eq!(kept(), 20_000);
            release();
            assert_eq!(kept(), 0);
            recycle(used);
        });
        assert_eq!((memory.kept(), kept()), (10_000, 0));
    }

    #[test]
    fn a_panic_brings_the_memory_back() {
        let mut memory = Memory::default();
        memory.lend(|| recycle(zeros(10_000)));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            memory.lend(|| {
                recycle(zeros(10_000));
                panic!("on purpose");
            })
        }));
        assert!(caught.is_err());
        assert_eq!(memory.kept(), 10_000);
        assert!(MEMORY.with_borrow(Option::is_none));
    }
}
