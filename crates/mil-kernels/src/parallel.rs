//! Work shared by threads that stay awake between the steps of a model.
//!
//! Decoding a token is hundreds of short parallel regions; waking a sleeping thread for each costs more than the work
//! in it. Helpers here watch for the next region for a moment before they sleep, and the caller takes part itself. A
//! region is open to whoever comes before the caller is done with it: nobody waits for a helper that has not begun.
//!
//! Each thread begins with its own part of the work, the same in every region, so that it finds in its cache what it left
//! there one operation before; one that is done helps the others.
//!
//! One region runs at a time; a caller that finds the helpers busy, or is itself inside a region, does its work alone.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a helper watches before it sleeps: longer than what lies between two regions of a token.
const WATCH: Duration = Duration::from_micros(500);
/// Looks between two glances at the clock; after the first glance the processor is offered to others.
const LOOKS: usize = 2000;

/// Environment variables that set the number of threads, the first one that holds a number counts.
const VARIABLES: [&str; 2] = ["CANDLE_COREML_THREADS", "RAYON_NUM_THREADS"];

/// Number of threads that share a region, the caller's among them: from the environment (`CANDLE_COREML_THREADS`, else
/// `RAYON_NUM_THREADS`), else the physical cores that this process may use.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let named = VARIABLES.iter().find_map(|v| std::env::var(v).ok()?.parse().ok().filter(|&n| n > 0));
        named.unwrap_or_else(|| {
            let usable = std::thread::available_parallelism().map_or(1, usize::from);
            // Two threads of one core share its arithmetic; a lone core is no reason to leave its second thread idle.
            match num_cpus::get_physical() {
                0 | 1 => usable,
                cores => usable.min(cores),
            }
        })
    })
}

/// Calls `work(i)` once for each `i < count`, on several threads where they are free; each begins with its own part.
///
/// # Panics
/// When `work` does.
pub fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    shared(count, usize::MAX, work);
}

/// [`for_each`] in as many parts as there are threads, but no more than `most`.
fn shared(count: usize, most: usize, work: impl Fn(usize) + Sync) {
    let pool = if count > 1 { pool() } else { None };
    match pool.and_then(|p| Some((p, p.region.try_lock().ok()?))) {
        Some((pool, region)) => {
            let panicked = pool.run(count, most, &work);
            drop(region);
            assert!(!panicked, "a helper thread panicked");
        }
        None => (0..count).for_each(work),
    }
}

/// Calls `work(i, chunk)` for each chunk of `size` elements; the last one may be shorter.
///
/// # Panics
/// When `size` is zero or `work` panics.
pub fn chunks_mut<T: Send>(data: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    shared_chunks(data, size, usize::MAX, work);
}

/// Calls `work(item)` for each item, the first ones first, whichever thread takes them.
///
/// # Panics
/// When `work` does.
pub(crate) fn in_turn<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    shared_chunks(items, 1, 1, |_, items| items.iter_mut().for_each(&work));
}

fn shared_chunks<T: Send>(data: &mut [T], size: usize, most: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    assert!(size > 0, "size of a chunk");
    let (base, len) = (Shared(data.as_mut_ptr()), data.len());
    shared(len.div_ceil(size), most, |i| {
        let start = i * size;
        // SAFETY: the chunks of different `i` do not overlap and lie inside `data`, which is borrowed for the call;
        // `shared` calls once for each `i`.
        let chunk = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), size.min(len - start)) };
        work(i, chunk);
    });
}

/// Elements below which light work is not worth a second thread.
pub(crate) const SPLIT: usize = 1 << 14;
/// Elements of light work that one task takes at least.
pub(crate) const TASK: usize = 1 << 12;

/// Calls `work(first row, rows)` for runs of whole rows of `size` elements, on several threads where that pays for work
/// of a few instructions for each element.
///
/// # Panics
/// When `size` is zero or `work` panics.
pub fn rows_mut<T: Send>(data: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    weighed_rows_mut(data, size, size, work);
}

/// As [`rows_mut`], where a row takes the work of `weight` elements.
///
/// # Panics
/// When `size` is zero or `work` panics.
pub(crate) fn weighed_rows_mut<T: Send>(
    data: &mut [T],
    size: usize,
    weight: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let rows = data.len().div_ceil(size);
    let run = if rows.saturating_mul(weight) < SPLIT { rows } else { TASK.div_ceil(weight) }.max(1);
    chunks_mut(data, run * size, |i, rows| work(i * run, rows));
}

/// Columns behind each other of rows that are wider.
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
    /// Where there is no such row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.height, "row");
        // SAFETY: the columns of each row lie inside what was borrowed for the lifetime, and this value alone names them.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.width) }
    }
}

/// Calls `work(block, first column, columns)` for every block of `[rows, width]` elements and all of its columns, `span` of
/// them at once; the last ones may be fewer.
///
/// # Panics
/// When there is no row, column or span, the blocks do not fill the data, or `work` panics.
pub(crate) fn columns_mut<T: Send>(
    data: &mut [T],
    [rows, width]: [usize; 2],
    span: usize,
    work: impl Fn(usize, usize, ColumnsMut<'_, T>) + Sync,
) {
    assert!(rows * width > 0 && span > 0 && data.len().is_multiple_of(rows * width), "blocks of rows");
    let (base, blocks, spans) = (Shared(data.as_mut_ptr()), data.len() / (rows * width), width.div_ceil(span));
    for_each(blocks * spans, |task| {
        let (block, first) = (task / spans, task % spans * span);
        // SAFETY: the first row of a block that lies inside the data, and a column of it.
        let data = unsafe { base.get().add(block * rows * width + first) };
        // Columns of different tasks do not overlap, and `for_each` calls once for each task.
        let columns =
            ColumnsMut { data, height: rows, stride: width, width: span.min(width - first), rows: PhantomData };
        work(block, first, columns);
    });
}

/// A pointer whose use from several threads the user argues for.
pub(crate) struct Shared<T>(pub(crate) *mut T);
// SAFETY: those who use it write disjoint places from different threads, with `T: Send`.
unsafe impl<T: Send> Sync for Shared<T> {}
impl<T> Shared<T> {
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

/// The work of a region, its lifetime erased; valid from opening to the moment when all that joined have left.
type Job = *const (dyn Fn(usize) + Sync + 'static);

/// The work of a region, how often it is called, and the parts in which threads take it.
#[derive(Clone, Copy)]
struct Region {
    job: Job,
    count: usize,
    parts: usize,
}

/// `state`: number of the region, whether it is open, how many helpers have joined.
const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

/// A counter on a line of the cache, or two, of its own.
#[repr(align(128))]
struct Line(AtomicUsize);

struct Pool {
    /// Held by the caller of the one region at a time.
    region: Mutex<()>,
    state: AtomicU64,
    job: UnsafeCell<Option<Region>>,
    /// The next piece of work in the part of each thread, the caller's first.
    next: Box<[Line]>,
    left: AtomicU64,
    panicked: AtomicBool,
    helpers: OnceLock<Vec<Thread>>,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the holder of `region` while no helper has joined, and read only by helpers that
// have joined, which `state` orders; all else is atomic.
unsafe impl Sync for Pool {}
// SAFETY: the pointer in `job` is to a `Sync` closure and is used as `Sync` says above.
unsafe impl Send for Pool {}

fn pool() -> Option<&'static Pool> {
    static POOL: OnceLock<Option<&'static Pool>> = OnceLock::new();
    *POOL.get_or_init(|| Pool::start(threads() - 1))
}

impl Pool {
    /// Starts helpers that live as long as the process; none when the system has no threads to give.
    fn start(helpers: usize) -> Option<&'static Self> {
        let pool: &'static Self = Box::leak(Box::new(Self {
            region: Mutex::new(()),
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: (0..=helpers).map(|_| Line(AtomicUsize::new(0))).collect(),
            left: AtomicU64::new(0),
            panicked: AtomicBool::new(false),
            helpers: OnceLock::new(),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        }));
        let spawn = |i| {
            let helper = std::thread::Builder::new().name(format!("mil-kernels {i}"));
            helper.spawn(move || pool.help(i)).ok().map(|handle| handle.thread().clone())
        };
        let started: Vec<Thread> = (0..helpers).map_while(spawn).collect();
        let any = !started.is_empty();
        let _ = pool.helpers.set(started);
        any.then_some(pool)
    }

    /// Runs one region in at most so many parts; the caller holds `region`. True when a helper panicked.
    fn run(&self, count: usize, most: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
        /// Closes the region and waits for those inside, also when the caller's own part panics.
        struct Close<'a>(&'a Pool);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                let joined = self.0.state.fetch_and(!OPEN, Ordering::AcqRel) & JOINED;
                let mut looks = 0;
                while self.0.left.load(Ordering::Acquire) != joined {
                    looks += 1;
                    if looks < LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
                }
            }
        }
        // SAFETY: only the lifetime changes; `Close` keeps this frame, and with it `work`, until no helper uses it.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(work) };
        let parts = self.next.len().min(count).min(most);
        // SAFETY: the last region is closed and left, and this thread holds `region`.
        unsafe { *self.job.get() = Some(Region { job, count, parts }) };
        for (part, next) in self.next[..parts].iter().enumerate() {
            next.0.store(part * count / parts, Ordering::Relaxed);
        }
        self.left.store(0, Ordering::Relaxed);
        self.panicked.store(false, Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) << 32;
        let close = Close(self);
        // Sequentially consistent with the helper's `asleep`: either it sees the region or it is woken.
        self.state.store(number | OPEN, Ordering::SeqCst);
        // No more helpers than there is work beside the caller's.
        for (asleep, helper) in self.asleep.iter().zip(self.helpers.get().into_iter().flatten()).take(count - 1) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                helper.unpark();
            }
        }
        self.take(work, (count, parts), 0);
        drop(close);
        self.panicked.load(Ordering::Relaxed)
    }

    /// Works through the part of thread `me`, then through what is left of the others.
    fn take(&self, work: &(dyn Fn(usize) + Sync), (count, parts): (usize, usize), me: usize) {
        for part in (0..parts).map(|i| (me + i) % parts) {
            let (next, end) = (&self.next[part].0, (part + 1) * count / parts);
            // Looked at first: adding takes the line from those who work there.
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
            // SAFETY: joined, so the job was written before the region opened and stays until this helper has left.
            let (work, sizes) = match unsafe { *self.job.get() } {
                // SAFETY: as above.
                Some(Region { job, count, parts }) => (unsafe { &*job }, (count, parts)),
                None => unreachable!("an open region has a job"),
            };
            if catch_unwind(AssertUnwindSafe(|| self.take(work, sizes, me + 1))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.left.fetch_add(1, Ordering::Release);
        }
    }

    /// The state of an open region with another number than `seen`.
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
mod tests {
    use super::*;

    fn with_helpers() -> &'static Pool {
        static POOL: OnceLock<&'static Pool> = OnceLock::new();
        POOL.get_or_init(|| Pool::start(3).expect("threads"))
    }

    /// [`for_each`] on a pool of three helpers, whatever the machine has.
    fn each(count: usize, work: impl Fn(usize) + Sync) -> bool {
        let pool = with_helpers();
        let _region = pool.region.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // As many parts as threads, or one, in turn.
        pool.run(count, if count.is_multiple_of(2) { usize::MAX } else { 1 }, &work)
    }

    #[test]
    fn each_index_is_worked_on_once() {
        for round in 0..if cfg!(miri) { 20 } else { 2000 } {
            let count = 1 + round % 37;
            let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            assert!(!each(count, |i| {
                seen[i].fetch_add(1, Ordering::Relaxed);
            }));
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn helpers_wake_from_sleep() {
        for _ in 0..3 {
            std::thread::sleep(WATCH * 4);
            let (all, threads) = (AtomicUsize::new(0), Mutex::new(std::collections::HashSet::new()));
            assert!(!each(8, |_| {
                all.fetch_add(1, Ordering::Relaxed);
                threads.lock().expect("not poisoned").insert(std::thread::current().id());
                // Held until a second thread has come: proof that one does.
                while all.load(Ordering::Relaxed) < 2 {
                    std::thread::yield_now();
                }
            }));
            assert!(threads.into_inner().expect("not poisoned").len() > 1);
        }
    }

    #[test]
    fn chunks_cover_everything_also_from_inside_a_region() {
        let mut data = vec![0usize; 1001];
        chunks_mut(&mut data, 10, |i, chunk| {
            // A region within a region: done by this thread alone.
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
    fn a_panic_reaches_the_caller_and_leaves_the_helpers_usable() {
        let (first, all) = (std::thread::current().id(), AtomicUsize::new(0));
        // One that the caller raises itself.
        let result = catch_unwind(AssertUnwindSafe(|| each(8, |_| assert_ne!(std::thread::current().id(), first))));
        assert!(result.is_err() || !result.unwrap_or(true), "the caller found work, or helpers took it all");
        // One that a helper raises.
        assert!(each(2, |_| {
            all.fetch_add(1, Ordering::Relaxed);
            while all.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            assert_eq!(std::thread::current().id(), first, "not in a helper");
        }));
        assert!(!each(4, |_| {}));
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
