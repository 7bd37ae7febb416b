//! Buffers that begin with a line of the cache: wide loads that cross lines take twice as long.

/// Bytes of a line.
const LINE: usize = 64;

/// Elements of which the first one lies at the start of a line.
pub(crate) struct Aligned<T>(Vec<T>);

impl<T: Copy + Default> Aligned<T> {
    pub(crate) const fn empty() -> Self {
        Self(Vec::new())
    }

    /// `len` elements: whatever they were before, zeros at first.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [T] {
        let whole = len + LINE / size_of::<T>();
        if self.0.len() < whole {
            self.0.clear();
            self.0.resize(whole, T::default());
        }
        // `align_offset` may decline to answer (under an interpreter): any start is right, only slower.
        let start = self.0.as_ptr().align_offset(LINE).min(whole - len);
        &mut self.0[start..start + len]
    }
}
