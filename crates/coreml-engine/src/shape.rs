//! Checks of axes and sizes shared by operations.

use crate::error::OpError;

/// Resolves `axis` (negative: from the end) for a tensor of this rank.
///
/// # Errors
/// If it is out of range.
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

/// Maximum number of elements of one value: 4 GiB of `f32`. Bounds the allocation a single number in a program can
/// request.
pub const MAX_ELEMENTS: usize = if cfg!(fuzzing) { 1 << 16 } else { 1 << 30 };

/// Checks the size of a result before allocation. Extents of zero do not hide large ones, over which other operations
/// would iterate.
///
/// # Errors
/// If it has more than [`MAX_ELEMENTS`] elements, ignoring extents of zero.
pub fn check_size(shape: &[usize]) -> Result<usize, OpError> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))
        .filter(|&n| n <= MAX_ELEMENTS)
        .map(|n| if shape.contains(&0) { 0 } else { n })
        .ok_or_else(|| OpError::TooLarge { shape: shape.to_vec(), limit: MAX_ELEMENTS })
}
