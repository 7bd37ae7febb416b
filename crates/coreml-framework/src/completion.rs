//! Result of a completion handler, as a future or by blocking.
//!
//! Needs no runtime. A handler dropped without being called resolves to [`Abandoned`], so waiting always ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The handler was dropped without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Core ML dropped the request without an answer")]
pub struct Abandoned;

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    done: Condvar,
}

#[derive(Debug)]
enum State<T> {
    Pending(Option<Waker>),
    Done(Result<T, Abandoned>),
    Taken,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, result: Result<T, Abandoned>) {
        let mut state = self.lock();
        if let State::Pending(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Done(result);
            drop(state);
            self.done.notify_all();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Sending side. Completes by `&self`, because Objective-C blocks are called by reference; the first result wins.
#[derive(Debug)]
pub struct Completer<T>(Arc<Shared<T>>);

/// Receiving side.
#[derive(Debug)]
#[must_use = "nothing waits for the result otherwise"]
pub struct Completion<T>(Arc<Shared<T>>);

/// Creates a connected pair.
pub fn pair<T>() -> (Completer<T>, Completion<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State::Pending(None)), done: Condvar::new() });
    (Completer(shared.clone()), Completion(shared))
}

impl<T> Completer<T> {
    /// Delivers the result; later ones are dropped.
    pub fn complete(&self, value: T) {
        self.0.deliver(Ok(value));
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.0.deliver(Err(Abandoned));
    }
}

impl<T> Completion<T> {
    /// Blocks until the result arrives.
    ///
    /// # Errors
    /// [`Abandoned`] if the handler was dropped without being called.
    pub fn wait(self) -> Result<T, Abandoned> {
        let pending = |state: &mut State<T>| matches!(state, State::Pending(_));
        let mut state = self.0.done.wait_while(self.0.lock(), pending).unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(result) => result,
            State::Pending(_) | State::Taken => Err(Abandoned),
        }
    }
}

impl<T> Completion<T> {
    /// Blocks until the result arrives, but no longer than `limit`.
    ///
    /// # Errors
    /// The completion itself if the result is not there yet.
    pub fn wait_for(self, limit: std::time::Duration) -> Result<Result<T, Abandoned>, Self> {
        let pending = |state: &mut State<T>| matches!(state, State::Pending(_));
        let waited = self.0.done.wait_timeout_while(self.0.lock(), limit, pending);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Pending(_)) {
            drop(state);
            return Err(self);
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(result) => Ok(result),
            State::Pending(_) | State::Taken => Ok(Err(Abandoned)),
        }
    }
}

impl<T> Future for Completion<T> {
    type Output = Result<T, Abandoned>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Pending(waker) => {
                match waker {
                    Some(known) if known.will_wake(context.waker()) => {}
                    _ => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            State::Done(_) | State::Taken => match std::mem::replace(&mut *state, State::Taken) {
                State::Done(result) => Poll::Ready(result),
                _ => Poll::Ready(Err(Abandoned)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<T>(completion: &mut Completion<T>, count: &Arc<Count>) -> Poll<Result<T, Abandoned>> {
        let waker = Waker::from(count.clone());
        Pin::new(completion).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn a_future_wakes_its_last_waker_once() {
        let (completer, mut completion) = pair();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        assert!(poll(&mut completion, &first).is_pending());
        assert!(poll(&mut completion, &second).is_pending());
        completer.complete(1);
        completer.complete(2);
        drop(completer);
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
        assert_eq!(poll(&mut completion, &first), Poll::Ready(Ok(1)), "the first result counts");
        assert_eq!(poll(&mut completion, &first), Poll::Ready(Err(Abandoned)), "there is no second one");
    }

    #[test]
    fn a_dropped_handler_is_an_error_not_a_hang() {
        let (completer, mut completion) = pair::<()>();
        let count = Arc::new(Count::default());
        assert!(poll(&mut completion, &count).is_pending());
        drop(completer);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut completion, &count), Poll::Ready(Err(Abandoned)));
        let (completer, completion) = pair::<()>();
        drop(completer);
        assert_eq!(completion.wait(), Err(Abandoned));
    }

    #[test]
    fn a_thread_waits_for_another() {
        let (completer, completion) = pair();
        let handler = std::thread::spawn(move || completer.complete("done"));
        assert_eq!(completion.wait(), Ok("done"));
        handler.join().expect("delivered");
        let (completer, completion) = pair();
        drop(completion);
        completer.complete(1);
    }

    #[test]
    fn a_wait_has_a_limit() {
        let (completer, completion) = pair();
        let completion = completion.wait_for(std::time::Duration::ZERO).expect_err("nothing yet");
        completer.complete(5);
        assert_eq!(completion.wait_for(std::time::Duration::from_secs(60)).ok(), Some(Ok(5)));
        let (completer, completion) = pair::<()>();
        drop(completer);
        assert_eq!(completion.wait_for(std::time::Duration::ZERO).ok(), Some(Err(Abandoned)));
    }
}
