//! Per-prediction buffer pool; buffers are handed out uninitialised.
//!
//! Filling a fresh buffer costs as much as the arithmetic: the system zeroes its pages on first touch, and many
//! allocators return large blocks to the system at once. A [`Memory`] keeps the dead buffers of one prediction for
//! later results.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use crate::parallel::{chunks_mut, rows_mut};

/// Minimum number of elements of a pooled buffer (1 KB); smaller ones are left to the allocator.
const LARGE: usize = 1 << 8;

/// Buffers of previous results.
#[derive(Debug, Default)]
pub struct Memory {
    free: Vec<Buffer>,
    /// Buffers handed out since [`settle`]: address and capacity.
    made: Vec<(usize, usize)>,
    /// Number of elements in use, and its peak.
    used: usize,
    peak: usize,
}

#[derive(Debug)]
struct Buffer {
    data: Vec<f32>,
    /// True if used since [`Memory::lend`] began.
    recent: bool,
}

thread_local! {
    /// Pool of the current thread's results.
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

impl Memory {
    /// Runs `f` with the results of this thread allocated from this pool. Buffers returned by [`recycle`] are kept for
    /// the next call, at most twice the peak use.
    pub fn lend<R>(&mut self, f: impl FnOnce() -> R) -> R {
        /// Returns the pool to its owner, also after a panic.
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

    /// Number of elements kept.
    pub fn kept(&self) -> usize {
        self.free.iter().map(|b| b.data.capacity()).sum()
    }

    /// Trims to twice the peak, preferring recently used buffers.
    fn shrink(&mut self) {
        self.made.clear();
        while self.kept() > 2 * self.peak {
            let unused = self.free.iter().position(|b| !b.recent);
            self.free.swap_remove(unused.unwrap_or(0));
        }
    }

    /// The smallest buffer with a capacity of `len` to twice `len` elements, or a new one.
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

/// For each buffer handed out since the last call, calls `lives` with its address to find out if it is still in use.
pub fn settle(mut lives: impl FnMut(usize) -> bool) {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(memory) = memory {
            let gone = memory.made.drain(..).filter(|&(address, _)| !lives(address)).map(|(_, room)| room);
            memory.used = memory.used.saturating_sub(gone.sum());
        }
    });
}

/// Returns the buffer of a dead result to the pool.
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

/// True if buffers were handed out since the last [`settle`].
pub fn has_made() -> bool {
    MEMORY.with_borrow(|memory| memory.as_ref().is_some_and(|memory| !memory.made.is_empty()))
}

/// Number of elements in this thread's pool not in use.
pub fn kept() -> usize {
    MEMORY.with_borrow(|memory| memory.as_ref().map_or(0, Memory::kept))
}

/// Frees the unused buffers of this thread's pool.
pub fn release() {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(memory) = memory {
            memory.free.clear();
        }
    });
}

mod sealed {
    /// Restricts [`Element`](super::Element) to types of this crate.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
    impl Sealed for u32 {}
    impl Sealed for i64 {}
    impl Sealed for half::f16 {}
}

/// Element types of results. Only f32 results, which are nearly all, use the pool.
///
/// Sealed because kernels write uninitialised memory of these types.
pub trait Element: sealed::Sealed + Copy + Send + Sync {
    /// Allocates an empty vector with capacity for `len` elements.
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

/// Allocates zeros from the pool.
pub fn zeros(len: usize) -> Vec<f32> {
    let mut out = f32::room(len);
    out.resize(len, 0.0);
    out
}

/// Allocates `len` elements, which `work(i, chunk)` initialises in chunks of `size` on several threads.
///
/// # Safety
/// `work` must write every element of its chunk.
pub(crate) unsafe fn alloc_with<T: Element>(
    len: usize,
    size: usize,
    work: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    // SAFETY: the chunks cover the elements, and the caller's closure writes all of them.
    unsafe { written(len, |out| chunks_mut(out, size, work)) }
}

/// Allocates `len` elements, which `work(first row, rows)` initialises in runs of whole rows of `size`, as [`rows_mut`]
/// does.
///
/// # Safety
/// `work` must write every element of its rows.
pub(crate) unsafe fn alloc_rows_with<T: Element>(
    len: usize,
    size: usize,
    work: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    // SAFETY: the rows cover the elements, and the caller's closure writes all of them.
    unsafe { written(len, |out| rows_mut(out, size, work)) }
}

/// Allocates `len` elements, which `write` initialises.
///
/// # Safety
/// `write` must write every element.
unsafe fn written<T: Element>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out = T::room(len);
    write(&mut out.spare_capacity_mut()[..len]);
    // SAFETY: within the capacity, and initialised by the caller's closure.
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
            // Small buffers are not kept.
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
        // Outside predictions, buffers go to the allocator.
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
    #[cfg_attr(panic = "abort", ignore = "a panic ends the process")]
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
