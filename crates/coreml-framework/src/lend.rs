//! Memory lent to the framework and returned on another thread.
//!
//! A value is either home with its [`Lender`] or away with its single [`Loan`]. While it is away the lender cannot
//! access it, and dropping the loan, on any thread, returns it by move, so neither double release nor use after release
//! can be expressed.
//!
//! ```text
//! home ── lend ──▶ away ── drop(loan) ──▶ home
//!                   └──── drop(lender), then drop(loan) ──▶ gone
//! ```

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The value is on loan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the buffer is still lent to Core ML")]
pub struct StillLent;

#[derive(Debug)]
struct Home<T> {
    value: Mutex<Option<T>>,
    returned: Condvar,
}

impl<T> Home<T> {
    /// After a panic of another holder the value is either present or absent: both are valid states.
    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owner of a lendable value.
#[derive(Debug)]
pub struct Lender<T>(Arc<Home<T>>);

/// A value on loan. Dropping it returns the value to its lender.
#[derive(Debug)]
pub struct Loan<T> {
    value: Option<T>,
    home: Arc<Home<T>>,
}

impl<T> Lender<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Home { value: Mutex::new(Some(value)), returned: Condvar::new() }))
    }

    /// Lends the value.
    ///
    /// # Errors
    /// [`StillLent`] if it is on loan.
    pub fn lend(&self) -> Result<Loan<T>, StillLent> {
        let value = self.0.lock().take().ok_or(StillLent)?;
        Ok(Loan { value: Some(value), home: self.0.clone() })
    }

    /// Returns true if the value is not on loan.
    pub fn is_home(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Modifies the value.
    ///
    /// # Errors
    /// [`StillLent`] if it is on loan; nothing is changed.
    pub fn with_mut<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Result<R, StillLent> {
        self.0.lock().as_mut().map(change).ok_or(StillLent)
    }

    /// Unwraps the value.
    ///
    /// # Errors
    /// Returns the lender if the value is on loan.
    pub fn take(self) -> Result<T, Self> {
        let value = self.0.lock().take();
        value.ok_or(self)
    }

    /// Waits at most `limit` for the value to return; returns true if it did.
    pub fn wait(&self, limit: Duration) -> bool {
        let waited = self.0.returned.wait_timeout_while(self.0.lock(), limit, |value| value.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }
}

impl<T> Loan<T> {
    /// Borrows the value.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T> Drop for Loan<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            *self.home.lock() = Some(value);
            self.home.returned.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts its drops.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Lend,
        Release,
        ReleaseElsewhere,
        Change,
        Look,
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        /// Any sequence of steps against a reference: a flag for the value's location.
        #[test]
        fn any_order_of_steps_keeps_one_value_in_one_place(
            steps in prop::collection::vec(prop::sample::select(vec![
                Step::Lend, Step::Release, Step::ReleaseElsewhere, Step::Change, Step::Look,
            ]), 0..40),
        ) {
            let mut lender = Lender::new(0_u32);
            let (mut away, mut want) = (None, 0);
            for step in steps {
                match step {
                    Step::Lend => match lender.lend() {
                        Ok(loan) => {
                            prop_assert!(away.is_none());
                            away = Some(loan);
                        }
                        Err(StillLent) => prop_assert!(away.is_some()),
                    },
                    Step::Release => away = None,
                    Step::ReleaseElsewhere => {
                        if let Some(loan) = away.take() {
                            std::thread::spawn(move || drop(loan)).join().expect("released");
                        }
                    }
                    Step::Change => {
                        let changed = lender.with_mut(|v| *v += 1);
                        prop_assert_eq!(changed.is_ok(), away.is_none());
                        want += u32::from(changed.is_ok());
                    }
                    Step::Look => prop_assert_eq!(away.as_ref().and_then(Loan::get).copied().unwrap_or(want), want),
                }
                prop_assert_eq!(lender.is_home(), away.is_none());
            }
            drop(away);
            prop_assert_eq!(lender.take().ok(), Some(want));
        }
    }

    #[test]
    fn the_value_is_dropped_once_whoever_goes_last() {
        let drops = Arc::new(AtomicUsize::new(0));
        let lender = Lender::new(Counted(drops.clone()));
        let loan = lender.lend().expect("home");
        drop(lender);
        assert_eq!(drops.load(Ordering::SeqCst), 0, "the loan keeps it");
        std::thread::spawn(move || drop(loan)).join().expect("released");
        assert_eq!(drops.load(Ordering::SeqCst), 1);

        let lender = Lender::new(Counted(drops.clone()));
        drop(lender.lend());
        drop(lender);
        assert_eq!(drops.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn waiting_ends_with_the_release_or_the_limit() {
        let lender = Lender::new(7);
        let loan = lender.lend().expect("home");
        assert!(!lender.wait(Duration::ZERO));
        let releases = std::thread::spawn(move || drop(loan));
        assert!(lender.wait(Duration::from_secs(60)));
        releases.join().expect("released");
        assert!(lender.wait(Duration::ZERO));
        let lender = lender.take().map(Lender::new).expect("home");
        let _loan = lender.lend().expect("home");
        assert!(lender.take().is_err(), "it is away");
    }
}
