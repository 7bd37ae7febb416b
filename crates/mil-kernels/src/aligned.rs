//! Buffers aligned to cache lines; wide loads that cross a line take twice as long.

/// Bytes of a line.
const LINE: usize = 64;

/// Elements of which the first one lies at the start of a line.
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub(crate) const fn empty() -> Self {
        Self { data: Vec::new(), start: 0 }
    }

    /// `len` elements: whatever they were before, zeros at first.
    ///
    /// # Panics
    /// When no memory has so many.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [T] {
        let whole = len.checked_add(LINE / size_of::<T>()).expect("elements of a buffer");
        if self.data.len() < whole {
            self.data.clear();
            self.data.resize(whole, T::default());
        }
        // `align_offset` may decline to answer (under an interpreter): any start is right, only slower.
        self.start = self.data.as_ptr().align_offset(LINE).min(whole - len);
        &mut self.data[self.start..self.start + len]
    }

    /// The elements from the start on that [`at_least`](Self::at_least) chose last.
    pub(crate) fn elements(&self) -> &[T] {
        &self.data[self.start..]
    }
}
