//! Indices along a dimension, and what those out of range mean.

use super::FILL;

/// Handling of indices out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// Negative indices count from the end; others are errors.
    Wrap,
    /// An error, including negative indices.
    Refuse,
    /// Skipped.
    Skip,
}

/// Indices into an extent.
#[derive(Debug, Clone, Copy)]
pub struct Indices<'a> {
    /// The indices.
    pub at: &'a [i64],
    /// The extent.
    pub n: usize,
    /// Handling of those out of range.
    pub outside: Outside,
}

impl<'a> Indices<'a> {
    /// The position of an index; [`FILL`] for one that is skipped.
    ///
    /// # Errors
    /// The index, if it is out of range and not skipped.
    #[inline(always)]
    pub fn position(&self, index: i64) -> Result<usize, i64> {
        match self.position_within(index) {
            (at, true) => Ok(at),
            _ if self.outside == Outside::Skip => Ok(FILL),
            _ => Err(index),
        }
    }

    /// The position of an index without branches, and whether the index is in range; if not, the position is, unless the extent
    /// is none.
    #[inline(always)]
    pub(super) fn position_within(&self, index: i64) -> (usize, bool) {
        let n = self.n as u64;
        let wrap = if self.outside == Outside::Wrap { self.n as i64 } else { 0 };
        // Negative ones are larger than any extent.
        let wrapped = (index + (wrap & (index >> 63))) as u64;
        (wrapped.min(n.saturating_sub(1)) as usize, wrapped < n)
    }

    /// The positions of all indices.
    ///
    /// # Errors
    /// The first index that is out of range and not skipped.
    pub fn positions(self) -> impl ExactSizeIterator<Item = Result<usize, i64>> + 'a {
        self.at.iter().map(move |&index| self.position(index))
    }
}
