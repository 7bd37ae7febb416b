//! Admission control: a semaphore with a bounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Capacity;
use crate::error::{Error, Result};

/// A FIFO semaphore with a bounded queue.
#[derive(Debug)]
pub(super) struct Admission {
    permits: Arc<Semaphore>,
    slots: usize,
    waiting: AtomicUsize,
    queue: usize,
}

/// Counts a waiting call while alive.
struct Waiting<'g>(&'g AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Admission {
    pub(super) fn new(capacity: Capacity) -> Self {
        let slots = capacity.slots.clamp(1, Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(slots));
        Self { permits, slots, waiting: AtomicUsize::new(0), queue: capacity.queue }
    }

    /// Waits for a permit; drop it to release.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit> {
        // Succeeds only if the queue is empty: released permits go to the first waiter.
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let add = |n: usize| (n < self.queue).then_some(n + 1);
        self.waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .map_err(|_| Error::Busy { limit: self.queue })?;
        let _waiting = Waiting(&self.waiting);
        self.permits.clone().acquire_owned().await.map_err(|e| Error::Aborted(e.to_string()))
    }

    /// Waits for a permit whatever the length of the queue.
    #[cfg(feature = "language")]
    pub(super) async fn enter_late(&self) -> Result<OwnedSemaphorePermit> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        self.permits.clone().acquire_owned().await.map_err(|e| Error::Aborted(e.to_string()))
    }

    /// Number of waiting calls.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Number of running calls.
    pub(super) fn running(&self) -> usize {
        self.slots.saturating_sub(self.permits.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_is_turned_away_and_a_place_that_is_left_can_be_taken() {
        let admission = Arc::new(Admission::new(Capacity { slots: 0, queue: 1, buffer: 1 }));
        let first = admission.enter().await.expect("a slot: there is always one");
        let wait = || {
            let admission = admission.clone();
            tokio::spawn(async move { admission.enter().await.map(drop) })
        };
        let second = wait();
        while admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(admission.enter().await, Err(Error::Busy { limit: 1 })));
        second.abort();
        assert!(second.await.expect_err("aborted").is_cancelled());
        assert_eq!((admission.waiting(), admission.running()), (0, 1), "who leaves the queue frees the place");
        let third = wait();
        while admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
        third.await.expect("ends").expect("its turn");
        assert_eq!((admission.waiting(), admission.running()), (0, 0));
    }

    #[tokio::test]
    async fn without_a_queue_nobody_waits() {
        let admission = Admission::new(Capacity { slots: 1, queue: 0, buffer: 1 });
        let _permit = admission.enter().await.expect("a slot");
        assert!(matches!(admission.enter().await, Err(Error::Busy { limit: 0 })));
    }
}
