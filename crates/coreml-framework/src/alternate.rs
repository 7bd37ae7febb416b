//! Memory that is written while what was written before may still be read.
//!
//! An output array that was handed on to the next model belongs to whoever holds it. Before its next prediction the
//! model turns to the other of two arrays, or to a new one if both are held, so nobody writes what somebody may read.

use std::sync::Arc;

/// A value that may be written, and the one that was written before.
#[derive(Debug)]
pub struct Alternate<T> {
    current: Arc<T>,
    before: Option<Arc<T>>,
}

impl<T> Alternate<T> {
    /// Starts with a value.
    pub fn new(value: T) -> Self {
        Self { current: Arc::new(value), before: None }
    }

    /// The value to be written next, or that was just written.
    pub fn current(&self) -> &Arc<T> {
        &self.current
    }

    /// Makes the current value one that nobody else holds. Returns true if it is another one than before.
    ///
    /// # Errors
    /// Those of `make`, which is called if both values are held; then nothing changes.
    pub fn free<E>(&mut self, make: impl FnOnce() -> Result<T, E>) -> Result<bool, E> {
        // `get_mut` also sees to it that the last holder's reads come before our writes.
        if Arc::get_mut(&mut self.current).is_some() {
            return Ok(false);
        }
        let before = self.before.take_if(|before| Arc::get_mut(before).is_some());
        let next = before.map_or_else(|| make().map(Arc::new), Ok)?;
        self.before = Some(std::mem::replace(&mut self.current, next));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn turn(values: &mut Alternate<u32>, fresh: u32) -> (bool, u32) {
        let Ok(changed) = values.free(|| Ok::<_, Infallible>(fresh));
        (changed, **values.current())
    }

    #[test]
    fn a_value_that_is_held_is_not_current() {
        let mut values = Alternate::new(0);
        assert_eq!(turn(&mut values, 9), (false, 0), "nobody holds it");
        let first = values.current().clone();
        assert_eq!(turn(&mut values, 1), (true, 1));
        assert_eq!(turn(&mut values, 9), (false, 1));
        let second = values.current().clone();
        assert_eq!(turn(&mut values, 2), (true, 2), "both are held: a third");
        drop(second);
        let third = values.current().clone();
        assert_eq!(turn(&mut values, 9), (true, 1), "the second is free again");
        assert_eq!((*first, *third), (0, 2), "what is held stays as it was");
    }

    #[test]
    fn two_values_do_for_a_chain() {
        let mut values = Alternate::new(0);
        let mut held = None;
        let mut made = 0;
        for step in 0..10 {
            let Ok(_) = values.free(|| {
                made += 1;
                Ok::<_, Infallible>(made)
            });
            // The one of the step before is dropped only now.
            held = Some((step, values.current().clone()));
        }
        assert_eq!((made, held.is_some()), (1, true));
    }

    #[test]
    fn a_failure_changes_nothing() {
        let mut values = Alternate::new(0);
        let (held, _) = (values.current().clone(), turn(&mut values, 1));
        let both = values.current().clone();
        assert_eq!(values.free(|| Err("full")), Err("full"));
        assert_eq!(**values.current(), 1);
        drop(held);
        assert_eq!(turn(&mut values, 9), (true, 0), "the other one was kept");
        drop(both);
    }

    #[test]
    fn holders_on_other_threads_count() {
        let mut values = Alternate::new(0);
        let held = values.current().clone();
        assert_eq!(turn(&mut values, 1), (true, 1));
        let again = values.current().clone();
        std::thread::spawn(move || drop(held)).join().expect("dropped elsewhere");
        assert_eq!(turn(&mut values, 9), (true, 0));
        drop(again);
    }
}
