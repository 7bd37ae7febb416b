//! Checks of axes and sizes that operations share.

use crate::error::OpError;

/// The index of dimension `axis` (negative: from the end) of a tensor of this rank.
///
/// # Errors
/// When it is out of range.
pub fn resolve_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let resolved = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    resolved
        .and_then(|a| usize::try_from(a).ok())
        .filter(|&a| a < rank)
        .ok_or_else(|| OpError::shape(format!("axis {axis} is out of range for rank {rank}")))
}

/// [`resolve_axis`] for several axes.
pub fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    axes.iter().map(|&a| resolve_axis(a, rank)).collect()
}

/// Most elements that one value may have: 4 GiB of `f32`. A program can't ask for more by a single number.
pub const MAX_ELEMENTS: usize = if cfg!(fuzzing) { 1 << 16 } else { 1 << 30 };

/// Checks the size of a result before it is allocated. Extents of zero do not excuse large ones beside them, which
/// other operations would walk along.
///
/// # Errors
/// When it has more than [`MAX_ELEMENTS`] elements, extents of zero left out.
pub fn check_size(shape: &[usize]) -> Result<usize, OpError> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))
        .filter(|&n| n <= MAX_ELEMENTS)
        .map(|n| if shape.contains(&0) { 0 } else { n })
        .ok_or_else(|| OpError::TooLarge { shape: shape.to_vec(), limit: MAX_ELEMENTS })
}
