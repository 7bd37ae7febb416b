//! Independent pieces of work on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use coreml_format::task;

/// `f(0)`, …, `f(count - 1)`, in order; each is computed once, on any core. `None` if the [task](task) was cancelled.
pub fn map<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync) -> Option<Vec<T>> {
    let tasks = task::current();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
    if threads < 2 {
        return (0..count).map(|i| (!tasks.is_cancelled()).then(|| f(i))).collect();
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count || tasks.is_cancelled() {
                        break;
                    }
                    own.push((i, f(i)));
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).extend(own);
            });
        }
    });
    let mut all = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by_key(|(i, _)| *i);
    (all.len() == count).then(|| all.into_iter().map(|(_, v)| v).collect())
}
