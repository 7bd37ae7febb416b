//! Choices from bytes: each consumes one byte, and zero selects the common case.

/// Choices from bytes; zeros once exhausted.
pub struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn next(&mut self) -> usize {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                usize::from(*first)
            }
            None => 0,
        }
    }

    /// Unconsumed bytes.
    pub fn rest(&self) -> Vec<u8> {
        self.rest.to_vec()
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.next() % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// True one time in `n`.
    pub fn rare(&mut self, n: usize) -> bool {
        self.next() >= 256 - 256 / n
    }
}
