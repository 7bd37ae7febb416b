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
        let wrapped = if self.outside == Outside::Wrap && index < 0 { index + self.n as i64 } else { index };
        // Negative ones are larger than any extent.
        match wrapped as u64 {
            at if at < self.n as u64 => Ok(at as usize),
            _ if self.outside == Outside::Skip => Ok(FILL),
            _ => Err(index),
        }
    }

    /// The position of an index without branches: in range even where the index is not, which the second value says.
    #[inline(always)]
    pub(super) fn position_within(&self, index: i64) -> (usize, bool) {
        let wrap = if self.outside == Outside::Wrap { self.n as i64 } else { 0 };
        let wrapped = (index + (wrap & (index >> 63))) as u64;
        // An extent of none is refused before.
        let last = (self.n as u64).wrapping_sub(1);
        (wrapped.min(last) as usize, wrapped <= last)
    }

    /// The positions of all indices.
    ///
    /// # Errors
    /// The first index that is out of range and not skipped.
    pub fn positions(self) -> impl ExactSizeIterator<Item = Result<usize, i64>> + 'a {
        self.at.iter().map(move |&index| self.position(index))
    }
}
