//! Memory lent to the framework, which lets go of it later, on another thread.
//!
//! The [`Loan`] owns the value and drops it, once, wherever it is dropped itself. The lender keeps a [`Receipt`], which
//! tells whether the loan is still out and keeps nothing alive: a model that is used once holds no input for its life.
//!
//! ```text
//! lend(value) ──▶ (loan, receipt)
//! drop(loan): the value is dropped, then the receipt says that it is back
//! ```

use std::sync::{Arc, Weak};

/// A value on loan, which owns it. Fields are dropped in order: the value before the mark.
#[derive(Debug)]
pub struct Loan<T> {
    value: T,
    _out: Arc<()>,
}

/// Tells whether a loan is still out.
#[derive(Debug, Clone)]
pub struct Receipt(Weak<()>);

/// Lends a value.
pub fn lend<T>(value: T) -> (Loan<T>, Receipt) {
    let out = Arc::new(());
    let receipt = Receipt(Arc::downgrade(&out));
    (Loan { value, _out: out }, receipt)
}

impl<T> Loan<T> {
    /// Borrows the value.
    pub fn get(&self) -> &T {
        &self.value
    }
}

impl Receipt {
    /// Returns true once the value has been dropped.
    pub fn is_back(&self) -> bool {
        self.0.strong_count() == 0
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

    proptest! {
        #![proptest_config(crate::cases(64))]

        /// Loans that end in any order, here or on another thread, against a list of those that are out.
        #[test]
        fn receipts_say_which_loans_are_out(ends in prop::collection::vec((0_usize..8, any::<bool>()), 0..20)) {
            let drops = Arc::new(AtomicUsize::new(0));
            let (mut loans, receipts): (Vec<_>, Vec<_>) =
                (0..8).map(|_| lend(Counted(drops.clone()))).map(|(loan, receipt)| (Some(loan), receipt)).unzip();
            for (at, elsewhere) in ends {
                let loan = loans[at].take();
                if elsewhere {
                    std::thread::spawn(move || drop(loan)).join().expect("released");
                } else {
                    drop(loan);
                }
                let out = loans.iter().filter(|loan| loan.is_some()).count();
                prop_assert_eq!(drops.load(Ordering::SeqCst), 8 - out);
                for (loan, receipt) in loans.iter().zip(&receipts) {
                    prop_assert_eq!(receipt.is_back(), loan.is_none());
                }
            }
        }
    }

    #[test]
    fn the_value_is_dropped_once_and_before_the_receipt_says_so() {
        struct Asks(Arc<std::sync::Mutex<Option<Receipt>>>, Arc<AtomicUsize>);
        impl Drop for Asks {
            fn drop(&mut self) {
                let receipt = self.0.lock().expect("a lock").take().expect("a receipt");
                assert!(!receipt.is_back(), "it is not gone yet");
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (slot, drops) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let (loan, receipt) = lend(Asks(Arc::clone(&slot), drops.clone()));
        *slot.lock().expect("a lock") = Some(receipt.clone());
        assert!(!receipt.is_back() && loan.get().1.load(Ordering::SeqCst) == 0);
        drop(loan);
        assert!(receipt.is_back());
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn nobody_but_the_loan_keeps_the_value() {
        let value = Arc::new(7);
        let (loan, receipt) = lend(value.clone());
        assert_eq!(Arc::strong_count(&value), 2);
        drop(loan);
        assert_eq!((Arc::strong_count(&value), receipt.is_back()), (1, true));
    }
}
