//! Forms of constants that are made once and kept for later predictions: how many bytes they take together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may still be kept.
#[derive(Debug)]
pub(crate) struct Kept(AtomicUsize);

impl Kept {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes room for so many bytes; false where there is not enough.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_until_there_is_none() {
        let kept = Kept::new(10);
        assert!(kept.take(6) && !kept.take(5) && kept.take(4) && !kept.take(1) && kept.take(0));
    }
}
