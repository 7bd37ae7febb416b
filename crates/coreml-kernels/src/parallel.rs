//! Thread pool whose workers spin between short parallel regions.
//!
//! Decoding a token consists of hundreds of short parallel regions; waking a sleeping thread for each costs more than
//! the work in it. Workers spin briefly for the next region before they sleep, and the caller works too. Any worker
//! that arrives before the caller is done can join a region: the caller never waits for a worker that has not started.
//!
//! Each thread starts with its own share, the same in every region, so that its data are still in its cache; a thread
//! that finishes steals from the others.
//!
//! One region runs at a time; a caller that finds the workers busy, or is already inside a region, works alone.
//!
//! A panic on any thread ends its region: remaining work is skipped, and the caller resumes the first panic once all
//! workers have left. The workers survive.

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::sizes::{part_start, size};

/// Time a worker spins before it sleeps: longer than the gap between two regions of a token.
const WATCH: Duration = Duration::from_micros(500);
/// Number of polls between two clock reads; after the first read the worker also yields the processor.
const LOOKS: usize = 2000;

/// Environment variables for the number of threads; the first that holds a number wins.
const VARIABLES: [&str; 2] = ["CANDLE_COREML_THREADS", "RAYON_NUM_THREADS"];

/// Maximum number of threads, whatever the environment says.
const MAX_THREADS: usize = 1024;

/// Number of threads that share a region, including the caller: from the environment (`CANDLE_COREML_THREADS`, then
/// `RAYON_NUM_THREADS`), otherwise the physical cores available to this process; at most 1024.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let named = VARIABLES.iter().find_map(|v| std::env::var(v).ok()?.parse().ok().filter(|&n| n > 0));
        let found = named.unwrap_or_else(|| {
            let usable = std::thread::available_parallelism().map_or(1, usize::from);
            // Hardware threads of one core share its arithmetic units; on a single core, the second thread is used
            // anyway.
            match num_cpus::get_physical() {
                0 | 1 => usable,
                cores => usable.min(cores),
            }
        });
        found.min(MAX_THREADS)
    })
}

/// Calls `work(i)` once for each `i < count`, on several threads if available; each starts with its own part.
///
/// # Panics
/// If `work` panics, with its payload. Some `i` are then skipped.
pub fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    shared(count, usize::MAX, work);
}

/// Same as [`for_each`], in one part per thread but at most `most` parts.
fn shared(count: usize, most: usize, work: impl Fn(usize) + Sync) {
    let pool = if count > 1 { pool() } else { None };
    match pool.and_then(|pool| Some((pool, pool.free()?))) {
        Some((pool, region)) => pool.run(region, count, most, &work),
        None => (0..count).for_each(work),
    }
}

/// Calls `work(i, chunk)` for each chunk of `size` elements; the last one may be shorter.
///
/// # Panics
/// If `size` is zero or `work` panics.
pub fn chunks_mut<T: Send>(data: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    shared_chunks(data, size, usize::MAX, work);
}

/// Calls `work(item)` for each item in order of start, on any thread.
///
/// # Panics
/// If `work` panics.
pub(crate) fn in_turn<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    shared_chunks(items, 1, 1, |_, items| items.iter_mut().for_each(&work));
}

fn shared_chunks<T: Send>(data: &mut [T], size: usize, most: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    assert!(size > 0, "size of a chunk");
    let (base, len) = (Shared(data.as_mut_ptr()), data.len());
    shared(len.div_ceil(size), most, |i| {
        let start = i * size;
        // SAFETY: the chunks of different `i` are disjoint and lie inside `data`, which is borrowed for the call;
        // `shared` calls once for each `i`.
        let chunk = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), size.min(len - start)) };
        work(i, chunk);
    });
}

/// Minimum number of elements of light work for a second thread.
pub(crate) const SPLIT: usize = 1 << 14;
/// Minimum number of elements of light work per task.
pub(crate) const TASK: usize = 1 << 12;

/// Calls `work(first row, rows)` for runs of whole rows of `size` elements, on several threads where worthwhile for
/// work of a few instructions per element.
///
/// # Panics
/// If `size` is zero or `work` panics.
pub fn rows_mut<T: Send>(data: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    weighed_rows_mut(data, size, size, work);
}

/// Same as [`rows_mut`], with the work of `weight` elements per row.
///
/// # Panics
/// If `size` is zero or `work` panics.
pub(crate) fn weighed_rows_mut<T: Send>(
    data: &mut [T],
    size: usize,
    weight: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    assert!(size > 0, "size of a row");
    let rows = data.len().div_ceil(size);
    let run = if rows.saturating_mul(weight) < SPLIT { rows } else { TASK.div_ceil(weight) }.max(1);
    chunks_mut(data, run * size, |i, rows| work(i * run, rows));
}

/// Adjacent columns of wider rows.
pub(crate) struct ColumnsMut<'a, T> {
    data: *mut T,
    height: usize,
    stride: usize,
    width: usize,
    rows: PhantomData<&'a mut [T]>,
}

impl<T> ColumnsMut<'_, T> {
    /// The columns of one row.
    ///
    /// # Panics
    /// If the row is out of range.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.height, "row");
        // SAFETY: the columns of each row lie inside the borrowed data, and only this value refers to them.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.width) }
    }
}

/// Calls `work(block, first column, columns)` for every block of `[rows, width]` elements and groups of up to `span` of
/// its columns.
///
/// # Panics
/// If there is no row, column or span, the blocks do not fill the data, or `work` panics.
pub(crate) fn columns_mut<T: Send>(
    data: &mut [T],
    [rows, width]: [usize; 2],
    span: usize,
    work: impl Fn(usize, usize, ColumnsMut<'_, T>) + Sync,
) {
    let block = size([rows, width]);
    assert!(block > 0 && span > 0 && data.len().is_multiple_of(block), "blocks of rows");
    let (base, blocks, spans) = (Shared(data.as_mut_ptr()), data.len() / block, width.div_ceil(span));
    for_each(blocks * spans, |task| {
        let (block, first) = (task / spans, task % spans * span);
        // SAFETY: the first row of a block inside the data, and one of its columns.
        let data = unsafe { base.get().add(block * rows * width + first) };
        // Tasks have disjoint columns, and `for_each` calls once for each task.
        let columns =
            ColumnsMut { data, height: rows, stride: width, width: span.min(width - first), rows: PhantomData };
        work(block, first, columns);
    });
}

/// A pointer shared between threads; the user must ensure disjoint access.
pub(crate) struct Shared<T>(pub(crate) *mut T);
// SAFETY: users write disjoint elements from different threads, with `T: Send`.
unsafe impl<T: Send> Sync for Shared<T> {}
impl<T> Shared<T> {
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

/// The work of a region with its lifetime erased; valid from opening until all workers that joined have left.
type Job = *const (dyn Fn(usize) + Sync + 'static);

/// The work of a region, its number of calls, and the number of parts.
#[derive(Clone, Copy)]
struct Region {
    job: Job,
    count: usize,
    parts: usize,
}

/// `state`: region number, open flag, number of workers that joined.
const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

/// Panic payload.
type Payload = Box<dyn Any + Send>;

/// A counter in its own pair of cache lines.
#[repr(align(128))]
struct Line(AtomicUsize);

struct Pool {
    /// Held by the caller of the current region.
    region: Mutex<()>,
    state: AtomicU64,
    job: UnsafeCell<Option<Region>>,
    /// Next item in the part of each thread, the caller's first.
    next: Box<[Line]>,
    left: AtomicU64,
    /// Payload of the first worker that panicked in this region.
    panic: Mutex<Option<Payload>>,
    helpers: OnceLock<Vec<Thread>>,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the holder of `region` while no worker has joined, and read only by workers that
// have joined, ordered by `state`; everything else is atomic.
unsafe impl Sync for Pool {}
// SAFETY: the pointer in `job` is to a `Sync` closure and is used as described for `Sync`.
unsafe impl Send for Pool {}

fn pool() -> Option<&'static Pool> {
    static POOL: OnceLock<Option<Arc<Pool>>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        Pool::start(threads() - 1, |i, help| {
            let helper = std::thread::Builder::new().name(format!("coreml-kernels {i}"));
            helper.spawn(help).ok().map(|handle| handle.thread().clone())
        })
    });
    pool.as_deref()
}

/// Spawns the thread of a worker, given its number; `None` if the system cannot.
type Spawn = fn(usize, Box<dyn FnOnce() + Send>) -> Option<Thread>;

impl Pool {
    /// Starts workers that live as long as the process: `helpers`, or as many as the system can spawn; `None` if it
    /// cannot spawn any.
    fn start(helpers: usize, spawn: Spawn) -> Option<Arc<Self>> {
        let pool = Arc::new(Self {
            region: Mutex::new(()),
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: (0..=helpers).map(|_| Line(AtomicUsize::new(0))).collect(),
            left: AtomicU64::new(0),
            panic: Mutex::new(None),
            helpers: OnceLock::new(),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let help = |i| -> Box<dyn FnOnce() + Send> {
            let pool = Arc::clone(&pool);
            Box::new(move || pool.help(i))
        };
        let started: Vec<Thread> = (0..helpers).map_while(|i| spawn(i, help(i))).collect();
        let any = !started.is_empty();
        let _ = pool.helpers.set(started);
        any.then_some(pool)
    }

    /// The right to open a region; `None` while another is open. Poison is ignored, since a panic leaves no state
    /// behind.
    fn free(&self) -> Option<MutexGuard<'_, ()>> {
        match self.region.try_lock() {
            Ok(region) => Some(region),
            Err(TryLockError::Poisoned(poison)) => Some(poison.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Runs one region in at most `most` parts.
    ///
    /// # Panics
    /// If a part panics: with the payload of the caller's own part, otherwise of the first worker.
    fn run(&self, region: MutexGuard<'_, ()>, count: usize, most: usize, work: &(dyn Fn(usize) + Sync)) {
        /// Closes the region and waits for its workers, also if the caller's own part panics.
        struct Close<'a>(&'a Pool);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.leave();
                }
                let joined = self.0.state.fetch_and(!OPEN, Ordering::AcqRel) & JOINED;
                let mut looks = 0;
                while self.0.left.load(Ordering::Acquire) != joined {
                    looks += 1;
                    if looks < LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
                }
            }
        }
        // SAFETY: only the lifetime changes; `Close` keeps this frame, and with it `work`, alive until no worker uses
        // it.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(work) };
        let parts = (1 + self.helpers().len()).min(count).min(most);
        // SAFETY: the last region is closed and left, and this thread holds `region`.
        unsafe { *self.job.get() = Some(Region { job, count, parts }) };
        for (part, next) in self.next[..parts].iter().enumerate() {
            next.0.store(part_start(count, parts, part), Ordering::Relaxed);
        }
        self.left.store(0, Ordering::Relaxed);
        // A worker's panic left over when the caller panicked as well.
        drop(self.panic().take());
        let number = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) << 32;
        let close = Close(self);
        // Sequentially consistent with the worker's `asleep`: either it sees the region or it is woken.
        self.state.store(number | OPEN, Ordering::SeqCst);
        // No more workers than there is work besides the caller's.
        for (asleep, helper) in self.asleep.iter().zip(self.helpers()).take(count - 1) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                helper.unpark();
            }
        }
        self.take(work, (count, parts), 0);
        drop(close);
        // Taken while this thread owns the region, resumed after releasing it.
        let panic = self.panic().take();
        drop(region);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn helpers(&self) -> &[Thread] {
        self.helpers.get().map_or(&[], Vec::as_slice)
    }

    fn panic(&self) -> MutexGuard<'_, Option<Payload>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Skips all work of the open region that has not started.
    fn leave(&self) {
        self.next.iter().for_each(|next| next.0.store(usize::MAX / 2, Ordering::Relaxed));
    }

    /// Works through the part of thread `me`, then steals from the others.
    fn take(&self, work: &(dyn Fn(usize) + Sync), (count, parts): (usize, usize), me: usize) {
        for part in (0..parts).map(|i| (me + i) % parts) {
            let (next, end) = (&self.next[part].0, part_start(count, parts, part + 1));
            // Check first: the add would take the cache line from its owner.
            while next.load(Ordering::Relaxed) < end {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i < end {
                    work(i);
                }
            }
        }
    }

    fn help(&self, me: usize) {
        let mut seen = 0;
        loop {
            let state = self.wait(seen, me);
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            seen = state >> 32;
            // SAFETY: after joining: the job was written before the region opened and stays until this worker has left.
            let (work, sizes) = match unsafe { *self.job.get() } {
                // SAFETY: as above.
                Some(Region { job, count, parts }) => (unsafe { &*job }, (count, parts)),
                None => unreachable!("an open region has a job"),
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take(work, sizes, me + 1))) {
                self.leave();
                let mut first = self.panic();
                match *first {
                    None => *first = Some(panic),
                    // Later panics are discarded, including any from dropping their payload.
                    Some(_) => {
                        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
                            std::mem::forget(again);
                        }
                    }
                }
            }
            self.left.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits for the state of an open region with a number other than `seen`.
    fn wait(&self, seen: u64, me: usize) -> u64 {
        let fresh = |order| Some(self.state.load(order)).filter(|s| s & OPEN != 0 && s >> 32 != seen);
        let mut since = None;
        loop {
            for _ in 0..LOOKS {
                if let Some(state) = fresh(Ordering::Relaxed) {
                    return state;
                }
                std::hint::spin_loop();
            }
            if since.get_or_insert_with(Instant::now).elapsed() < WATCH {
                std::thread::yield_now();
                continue;
            }
            self.asleep[me].store(true, Ordering::SeqCst);
            while fresh(Ordering::SeqCst).is_none() && self.asleep[me].load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep[me].store(false, Ordering::SeqCst);
            since = None;
        }
    }
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))] // There are no threads.
mod tests {
    use super::*;

    fn spawn(_: usize, help: Box<dyn FnOnce() + Send>) -> Option<Thread> {
        Some(std::thread::spawn(help).thread().clone())
    }

    fn with_helpers() -> &'static Pool {
        static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
        POOL.get_or_init(|| Pool::start(3, spawn).expect("threads"))
    }

    /// [`for_each`] on a pool of three workers, regardless of the machine.
    fn each(count: usize, work: impl Fn(usize) + Sync) {
        each_on(with_helpers(), count, work);
    }

    /// Same as [`each`], waiting until the pool is free.
    fn each_on(pool: &Pool, count: usize, work: impl Fn(usize) + Sync) {
        let region = loop {
            match pool.free() {
                Some(region) => break region,
                None => std::thread::yield_now(),
            }
        };
        // Alternates between one part per thread and a single part.
        pool.run(region, count, if count.is_multiple_of(2) { usize::MAX } else { 1 }, &work);
    }

    /// Panic message of `f`.
    fn panic_of(f: impl FnOnce()) -> Option<String> {
        let payload = catch_unwind(AssertUnwindSafe(f)).err()?;
        match payload.downcast::<String>() {
            Ok(said) => Some(*said),
            Err(payload) => payload.downcast::<&str>().ok().map(|said| said.to_string()),
        }
    }

    /// Fails unless all four threads join a region.
    fn all_take_part(pool: &Pool) {
        let threads = Mutex::new(std::collections::HashSet::new());
        each_on(pool, 4, |_| {
            threads.lock().expect("not poisoned").insert(std::thread::current().id());
            while threads.lock().expect("not poisoned").len() < 4 {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn each_index_is_worked_on_once() {
        for round in 0..if cfg!(miri) { 20 } else { 2000 } {
            let count = 1 + round % 37;
            let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            each(count, |i| {
                seen[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn helpers_wake_from_sleep() {
        for _ in 0..3 {
            std::thread::sleep(WATCH * 4);
            let (all, threads) = (AtomicUsize::new(0), Mutex::new(std::collections::HashSet::new()));
            each(8, |_| {
                all.fetch_add(1, Ordering::Relaxed);
                threads.lock().expect("not poisoned").insert(std::thread::current().id());
                // Blocks until a second thread has joined.
                while all.load(Ordering::Relaxed) < 2 {
                    std::thread::yield_now();
                }
            });
            assert!(threads.into_inner().expect("not poisoned").len() > 1);
        }
    }

    #[test]
    fn chunks_cover_everything_also_from_inside_a_region() {
        let mut data = vec![0usize; 1001];
        chunks_mut(&mut data, 10, |i, chunk| {
            // A nested region runs on this thread alone.
            chunks_mut(chunk, 3, |j, part| part.iter_mut().for_each(|v| *v += 1 + i * 100 + j));
        });
        for (at, &v) in data.iter().enumerate() {
            assert_eq!(v, 1 + at / 10 * 100 + at % 10 / 3);
        }
        chunks_mut(&mut [0u8; 0], 4, |_, _| panic!("there is no chunk"));
    }

    #[test]
    fn columns_cover_every_row_of_every_block() {
        for ([rows, width], span) in [([3, 100], 7), ([1, 5], 5), ([4, 3], 10), ([2, 1], 1)] {
            let mut data = vec![0usize; 2 * rows * width];
            columns_mut(&mut data, [rows, width], span, |block, first, mut columns| {
                for row in 0..rows {
                    let at = (block * rows + row) * width + first;
                    columns.row(row).iter_mut().enumerate().for_each(|(i, v)| *v += 1 + at + i);
                }
            });
            assert!(data.iter().enumerate().all(|(at, &v)| v == 1 + at), "{rows} by {width}");
        }
        columns_mut(&mut [0u8; 0], [1, 1], 1, |_, _, _| panic!("there is no block"));
        let beyond = || columns_mut(&mut [0u8; 2], [2, 1], 1, |_, _, mut c| c.row(2).fill(1));
        assert!(catch_unwind(AssertUnwindSafe(beyond)).is_err());
    }

    #[test]
    fn a_panic_reaches_the_caller_once_and_leaves_all_threads_usable() {
        let pool = &*Pool::start(3, spawn).expect("threads");
        let first = std::thread::current().id();
        for round in 0..if cfg!(miri) { 3 } else { 50 } {
            // A panic of the caller, of a worker, and of all threads.
            for (own, others) in [(true, false), (false, true), (true, true)] {
                let begun = [const { AtomicBool::new(false) }; 2];
                let said = panic_of(|| {
                    each_on(pool, 8, |_| {
                        let helps = std::thread::current().id() != first;
                        begun[usize::from(helps)].store(true, Ordering::Relaxed);
                        // Blocks until both the caller and a worker have joined.
                        while !begun.iter().all(|b| b.load(Ordering::Relaxed)) {
                            std::thread::yield_now();
                        }
                        assert!(!if helps { others } else { own }, "round {round}");
                    });
                });
                assert_eq!(said, Some(format!("round {round}")), "{own} {others}");
                // The pool is free, and the panic does not resurface.
                assert!(pool.free().is_some());
                all_take_part(pool);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "the caller works until a helper comes")]
    fn what_has_not_begun_when_a_part_panics_is_left() {
        let (first, done) = (std::thread::current().id(), AtomicUsize::new(0));
        for own in [true, false] {
            let pool = &*Pool::start(3, spawn).expect("threads");
            let said = panic_of(|| {
                each_on(pool, 1 << 40, |_| {
                    done.fetch_add(1, Ordering::Relaxed);
                    assert!((std::thread::current().id() == first) != own, "{own}");
                });
            });
            assert_eq!(said, Some(format!("{own}")));
        }
        assert!(done.load(Ordering::Relaxed) < 1 << 40);
    }

    #[test]
    fn a_panic_inside_a_region_within_a_region_reaches_the_outer_caller() {
        for count in [1, 8] {
            let said = panic_of(|| {
                for_each(count, |i| for_each(4, |j| assert!((i, j) != (0, 2), "{i} {j}")));
            });
            assert_eq!(said.as_deref(), Some("0 2"));
        }
        let pool = with_helpers();
        let said = panic_of(|| each(8, |_| for_each(4, |j| assert!(j != 2, "within"))));
        assert_eq!(said.as_deref(), Some("within"));
        all_take_part(pool);
    }

    #[test]
    #[cfg_attr(miri, ignore = "callers wait for each other by looking")]
    fn panics_of_callers_on_many_threads_reach_those_who_raised_them() {
        let pool = &*Pool::start(3, spawn).expect("threads");
        std::thread::scope(|scope| {
            for t in 0..4usize {
                scope.spawn(move || {
                    for round in 0..if cfg!(miri) { 3 } else { 100 } {
                        let seen = AtomicUsize::new(0);
                        let said = panic_of(|| {
                            each_on(pool, 6, |i| {
                                seen.fetch_add(1, Ordering::Relaxed);
                                assert!(i != round % 12, "{t} {round}");
                            });
                        });
                        match round % 12 {
                            ..6 => assert_eq!(said, Some(format!("{t} {round}"))),
                            _ => assert_eq!((said, seen.into_inner()), (None, 6)),
                        }
                    }
                });
            }
        });
        all_take_part(pool);
    }

    #[test]
    fn a_system_without_threads_to_give_has_a_smaller_pool_or_none() {
        assert!(Pool::start(3, |_, _| None).is_none());
        assert!(Pool::start(0, spawn).is_none());
        let pool = &*Pool::start(3, |i, help| if i < 1 { spawn(i, help) } else { None }).expect("a thread");
        let threads = Mutex::new(std::collections::HashSet::new());
        for count in [2, 64, 1001] {
            let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            each_on(pool, count, |i| {
                threads.lock().expect("not poisoned").insert(std::thread::current().id());
                seen[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "{count}");
        }
        assert!(threads.into_inner().expect("not poisoned").len() <= 2);
        let said = panic_of(|| each_on(pool, 2, |i| assert!(i != 1, "one of two")));
        assert_eq!(said.as_deref(), Some("one of two"));
        each_on(pool, 2, |_| {});
    }

    #[test]
    fn callers_on_many_threads_do_not_disturb_each_other() {
        std::thread::scope(|scope| {
            for t in 0..4usize {
                scope.spawn(move || {
                    for _ in 0..if cfg!(miri) { 3 } else { 200 } {
                        let mut data = vec![t; 64];
                        chunks_mut(&mut data, 5, |i, c| c.iter_mut().for_each(|v| *v += i));
                        assert!(data.iter().enumerate().all(|(at, &v)| v == t + at / 5));
                    }
                });
            }
        });
    }
}
