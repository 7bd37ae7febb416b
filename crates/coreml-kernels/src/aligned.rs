//! Buffers aligned to cache lines; wide loads that cross a line take twice as long.

/// Size of a cache line in bytes.
const LINE: usize = 64;

/// A buffer whose first element is at the start of a cache line.
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub(crate) const fn empty() -> Self {
        Self { data: Vec::new(), start: 0 }
    }

    /// Returns `len` elements with unspecified contents, initially zero.
    ///
    /// # Panics
    /// If allocation fails.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [T] {
        let whole = len.checked_add(LINE / size_of::<T>()).expect("elements of a buffer");
        if self.data.len() < whole {
            self.data.clear();
            self.data.resize(whole, T::default());
        }
        // `align_offset` may fail (under an interpreter): an unaligned start is correct, only slower.
        self.start = self.data.as_ptr().align_offset(LINE).min(whole - len);
        &mut self.data[self.start..self.start + len]
    }

    /// The elements from the start chosen by the last [`at_least`](Self::at_least).
    pub(crate) fn elements(&self) -> &[T] {
        &self.data[self.start..]
    }
}
