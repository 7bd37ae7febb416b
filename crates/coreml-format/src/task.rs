//! Long work: its progress, and how it is cancelled.
//!
//! Everything that runs within [`Task::run`], on the same thread, tells the task of its progress and ends when the task is
//! cancelled. Long work asks [`check`] between its parts; threads that it starts go on with [`current`].

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are copied between two checks.
const PART: u64 = 16 << 20;

thread_local! {
    /// Tasks of the work on this thread, the outermost first.
    static TASKS: RefCell<Vec<Task>> = const { RefCell::new(Vec::new()) };
}

/// A part of long work that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// The part: a package, a weight, an operation, a file.
    pub what: &'a str,
    /// Parts done, or bytes of a file.
    pub done: u64,
    /// All of them; 0 if unknown.
    pub total: u64,
}

impl std::fmt::Display for Step<'_> {
    /// `3/12  layer_3`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.total {
            0 => write!(f, "{}  {}", self.done, self.what),
            total => write!(f, "{}/{total}  {}", self.done, self.what),
        }
    }
}

/// The work was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancelled {
    /// True for the system error that stands for a cancellation.
    pub fn is(error: &std::io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }

    /// Kind of an error of reading or writing: `cancelled` or `io`.
    pub fn kind(error: &std::io::Error) -> &'static str {
        if Self::is(error) { "cancelled" } else { "io" }
    }
}

impl From<Cancelled> for std::io::Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::other(cancelled)
    }
}

type Tell = dyn Fn(&Step<'_>) + Send + Sync;

/// A handle to long work. Clones are the same task, for other threads and signal handlers.
///
/// ```
/// use coreml_format::task::{self, Cancelled, Task};
///
/// let task = Task::with_progress(|step| println!("{step}"));
/// let handle = task.clone();
/// let done = task.run(|| {
///     for part in 0..10 {
///         task::step("part", part, 10)?;
///         if part == 3 {
///             handle.cancel();
///         }
///     }
///     Ok(())
/// });
/// assert_eq!(done, Err(Cancelled));
/// ```
#[derive(Clone, Default)]
pub struct Task {
    cancelled: Arc<AtomicBool>,
    tell: Option<Arc<Tell>>,
}

// A panic leaves a flag that is set or not.
impl std::panic::UnwindSafe for Task {}
impl std::panic::RefUnwindSafe for Task {}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

impl Task {
    /// A task that nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    /// A task that tells of its steps, from any of its threads.
    pub fn with_progress(tell: impl Fn(&Step<'_>) + Send + Sync + 'static) -> Self {
        Self { cancelled: Arc::default(), tell: Some(Arc::new(tell)) }
    }

    /// Cancels the work in progress at its next check; if there is none, the next one at its start.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// True if it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Takes the cancellation back, for other work.
    pub fn clear(&self) {
        self.cancelled.store(false, Ordering::Relaxed);
    }

    /// The flag that [`cancel`](Self::cancel) sets.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.cancelled.clone()
    }

    /// Does work that belongs to the task. Within another task, it belongs to both.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        Tasks(vec![self.clone()]).run(work)
    }
}

/// The tasks of the work on a thread.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Vec<Task>);

/// Takes tasks from the thread again, also after a panic.
struct Entered(usize);

impl Drop for Entered {
    fn drop(&mut self) {
        TASKS.with_borrow_mut(|tasks| tasks.truncate(self.0));
    }
}

impl Tasks {
    /// Goes on with the work, on this thread.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = TASKS.with_borrow_mut(|tasks| {
            let before = tasks.len();
            tasks.extend(self.0.iter().cloned());
            before
        });
        let _entered = Entered(before);
        work()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if one of them was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.iter().any(Task::is_cancelled)
    }
}

/// The tasks of this thread, for threads that help it.
pub fn current() -> Tasks {
    Tasks(TASKS.with_borrow(Clone::clone))
}

/// True if a task of this thread was cancelled.
pub fn is_cancelled() -> bool {
    TASKS.with_borrow(|tasks| tasks.iter().any(Task::is_cancelled))
}

/// An error if a task of this thread was cancelled.
///
/// # Errors
/// [`Cancelled`].
pub fn check() -> Result<(), Cancelled> {
    if is_cancelled() { Err(Cancelled) } else { Ok(()) }
}

/// Tells the tasks of this thread of a step.
pub fn report(what: &str, done: u64, total: u64) {
    let tell: Vec<Arc<Tell>> = TASKS.with_borrow(|tasks| tasks.iter().filter_map(|t| t.tell.clone()).collect());
    tell.iter().for_each(|tell| tell(&Step { what, done, total }));
}

/// [`report`] and [`check`].
///
/// # Errors
/// [`Cancelled`].
pub fn step(what: &str, done: usize, total: usize) -> Result<(), Cancelled> {
    report(what, done as u64, total as u64);
    check()
}

/// Does work that is a part of a step: it is cancelled as all work of the thread, and tells of no steps of its own.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let mut tasks = current();
    let outer = TASKS.with_borrow_mut(std::mem::take);
    tasks.0.iter_mut().for_each(|task| task.tell = None);
    let _loud = Loud(outer);
    tasks.run(work)
}

/// Puts the tasks of the thread back.
struct Loud(Vec<Task>);

impl Drop for Loud {
    fn drop(&mut self) {
        TASKS.set(std::mem::take(&mut self.0));
    }
}

/// Copies the rest of a file, with a check before every part.
///
/// # Errors
/// If reading or writing fails, and if the work is cancelled.
pub fn copy(from: &mut File, to: &mut File) -> std::io::Result<()> {
    loop {
        check()?;
        if std::io::copy(&mut from.take(PART), to)? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn work_belongs_to_its_task_and_to_those_around_it() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (one, other) = (seen.clone(), seen.clone());
        let outer = Task::with_progress(move |s| one.lock().expect("no panic").push(format!("outer {s}")));
        let inner = Task::with_progress(move |s| other.lock().expect("no panic").push(format!("inner {s}")));
        outer.run(|| {
            inner.run(|| step("a", 1, 2)).expect("nobody cancelled");
            report("b", 7, 0);
            quietly(|| report("unheard", 1, 1));
            let tasks = current();
            let helper = std::thread::spawn(move || {
                assert!(check().is_ok(), "a thread has no tasks of its own");
                tasks.run(|| report("c", 3, 3));
                tasks
            });
            let tasks = helper.join().expect("no panic");
            inner.cancel();
            assert!(!is_cancelled() && !tasks.is_cancelled());
            assert_eq!(inner.run(check), Err(Cancelled));
            outer.cancel();
            assert_eq!((check(), tasks.is_cancelled(), quietly(check)), (Err(Cancelled), true, Err(Cancelled)));
            outer.clear();
            assert_eq!(check(), Ok(()));
        });
        assert_eq!(*seen.lock().expect("no panic"), ["outer 1/2  a", "inner 1/2  a", "outer 7  b", "outer 3/3  c"]);
    }

    #[test]
    fn tasks_end_with_their_work_whatever_its_end() {
        let task = Task::new();
        task.cancel();
        let panicked = std::panic::catch_unwind(|| task.run(|| std::panic::resume_unwind(Box::new("a fault"))));
        assert!(panicked.is_err() && check().is_ok() && current().is_empty());
        let error = std::io::Error::from(Cancelled);
        assert_eq!((Cancelled::kind(&error), error.to_string()), ("cancelled", "cancelled".to_owned()));
        assert_eq!(Cancelled::kind(&std::io::Error::other("full")), "io");
    }
}
