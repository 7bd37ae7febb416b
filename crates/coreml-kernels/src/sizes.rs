//! Checked arithmetic on caller-supplied sizes.
//!
//! Each public function checks its sizes once, before work begins; later code may multiply and add unchecked, because a
//! kernel's indices never exceed the checked sizes.

/// Product of extents, zero if any of them is zero; `None` on overflow.
#[inline]
pub(crate) fn checked<const N: usize>(extents: [usize; N]) -> Option<usize> {
    checked_slice(&extents)
}

/// Same as [`checked`], for a whole shape.
#[inline]
pub(crate) fn checked_slice(extents: &[usize]) -> Option<usize> {
    let product = extents.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
    if product.is_none() && extents.contains(&0) { Some(0) } else { product }
}

/// Product of extents, zero if any of them is zero.
///
/// # Panics
/// On overflow.
#[inline]
#[track_caller]
pub(crate) fn size<const N: usize>(extents: [usize; N]) -> usize {
    checked(extents).unwrap_or_else(|| too_large(&extents))
}

/// Same as [`size`], for a whole shape.
#[inline]
#[track_caller]
pub(crate) fn size_of_shape(extents: &[usize]) -> usize {
    checked_slice(extents).unwrap_or_else(|| too_large(extents))
}

#[cold]
#[track_caller]
fn too_large(extents: &[usize]) -> ! {
    panic!("the size of extents {extents:?} does not fit {} bits", usize::BITS)
}

/// Offset of the last element along dimensions with these extents and strides; `None` on overflow. Extents of zero
/// count as one.
#[inline]
pub(crate) fn last(dims: impl IntoIterator<Item = (usize, usize)>) -> Option<usize> {
    dims.into_iter()
        .try_fold(0usize, |at, (extent, stride)| at.checked_add(extent.saturating_sub(1).checked_mul(stride)?))
}

/// Start of part `i` of `count` even parts of `0..n`: `n · i / count`, without overflow of the product.
#[inline]
pub(crate) fn part_start(n: usize, count: usize, i: usize) -> usize {
    n / count * i + n % count * i / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(panic = "abort", ignore = "a panic ends the process")]
    fn products_that_do_not_fit_are_none_unless_an_extent_is_zero() {
        assert_eq!(checked([3, 4, 5]), Some(60));
        assert_eq!(checked([]), Some(1));
        assert_eq!(checked([1 << (usize::BITS / 2), 1 << (usize::BITS / 2)]), None);
        assert_eq!(checked([usize::MAX, usize::MAX, 0]), Some(0));
        assert_eq!(checked([0, usize::MAX, 2]), Some(0));
        assert!(std::panic::catch_unwind(|| size([3, usize::MAX / 3 * 2 + 1])).is_err());
    }

    #[test]
    fn the_last_offset_is_that_of_the_last_index() {
        assert_eq!(last([(4, 3), (3, 1)]), Some(11));
        assert_eq!(last([(0, usize::MAX), (1, usize::MAX)]), Some(0));
        assert_eq!(last([(16, 1), (5, 1 << (usize::BITS - 2))]), None);
        assert_eq!(last([(2, usize::MAX), (2, 1)]), None);
    }

    #[test]
    fn parts_are_even_and_cover_what_is_large() {
        for (n, count) in [(0, 1), (1, 3), (10, 3), (37, 37), (usize::MAX, 7), (usize::MAX, 4096)] {
            assert_eq!((part_start(n, count, 0), part_start(n, count, count)), (0, n));
            for i in 0..count {
                let len = part_start(n, count, i + 1) - part_start(n, count, i);
                assert!(len == n / count || len == n / count + 1, "part {i} of {count} of {n}: {len}");
                assert_eq!(part_start(n, count, i) as u128, n as u128 * i as u128 / count as u128);
            }
        }
    }
}
