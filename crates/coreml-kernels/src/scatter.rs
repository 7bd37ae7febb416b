//! Scatter: updates joined with the elements at given places, in order.

use crate::gather::{FILL, Indices};
use crate::parallel::{self, TASK};

/// Joins slices of `size` updates with the elements from each start on. A start of [`FILL`] is skipped.
///
/// # Panics
/// If a slice lies outside of the data or there are fewer updates.
pub fn slices<T: Copy>(data: &mut [T], starts: &[usize], size: usize, updates: &[T], join: impl Fn(T, T) -> T) {
    if size == 0 {
        return;
    }
    for (&start, updates) in starts.iter().zip(updates.chunks_exact(size)).filter(|(start, _)| **start != FILL) {
        for (element, &update) in data[start..start + size].iter_mut().zip(updates) {
            *element = join(*element, update);
        }
    }
}

/// Joins updates `[outer, m, inner]` with the elements of `[outer, n, inner]` that the indices, of the shape of the updates,
/// name along `n`.
///
/// # Errors
/// An index that is out of range; some elements have then changed.
///
/// # Panics
/// If sizes do not match.
pub fn along<T: Copy + Send + Sync>(
    data: &mut [T],
    indices: Indices<'_>,
    [m, inner]: [usize; 2],
    updates: &[T],
    join: impl Fn(T, T) -> T + Sync,
) -> Result<(), i64> {
    let at = indices.at;
    assert_eq!(at.len(), updates.len(), "an index for each update");
    let Some(&first) = at.first() else { return Ok(()) };
    let (width, slab) = (m * inner, indices.n * inner);
    if slab == 0 {
        return indices.position(first).map(drop);
    }
    assert!(at.len().is_multiple_of(width) && at.len() / width * slab == data.len(), "sizes of the operands");
    let refused = std::sync::OnceLock::new();
    // The first one is kept.
    let refuse = |index: i64| _ = refused.set(index);
    if inner == 1 {
        // Lines are apart: some to each thread.
        parallel::weighed_rows_mut(data, slab, width, |first, data| {
            for (i, line) in data.chunks_exact_mut(slab).enumerate() {
                let part = (first + i) * m..(first + i + 1) * m;
                for (&index, &update) in at[part.clone()].iter().zip(&updates[part]) {
                    match indices.position(index) {
                        Ok(FILL) => {}
                        Ok(place) => line[place] = join(line[place], update),
                        Err(index) => refuse(index),
                    }
                }
            }
        });
    } else {
        // So are columns.
        let span = (TASK / m.max(1)).clamp(16, inner.max(16));
        parallel::columns_mut(data, [indices.n, inner], span, |block, first, mut columns| {
            let count = span.min(inner - first);
            for line in 0..m {
                let from = (block * m + line) * inner + first;
                let lines = at[from..from + count].iter().zip(&updates[from..from + count]);
                for (i, (&index, &update)) in lines.enumerate() {
                    match indices.position(index) {
                        Ok(FILL) => {}
                        Ok(place) => {
                            let element = &mut columns.row(place)[i];
                            *element = join(*element, update);
                        }
                        Err(index) => refuse(index),
                    }
                }
            }
        });
    }
    refused.into_inner().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::Outside;
    use proptest::prelude::*;

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many elements")]
        fn updates_reach_what_the_definition_says(
            outer in 1usize..9, n in 1usize..20, m in 1usize..300, inner in prop_oneof![Just(1usize), 1usize..70],
            outside in prop_oneof![Just(Outside::Wrap), Just(Outside::Skip), Just(Outside::Refuse)],
        ) {
            let count = outer * m * inner;
            let at: Vec<i64> = (0..count as i64).map(|i| match outside {
                Outside::Wrap => i * 7 % (2 * n as i64) - n as i64,
                Outside::Skip => i * 5 % (3 * n as i64) - n as i64,
                Outside::Refuse => i * 3 % n as i64,
            }).collect();
            let updates: Vec<i64> = (0..count as i64).map(|i| i % 13).collect();
            let before: Vec<i64> = (0..(outer * n * inner) as i64).collect();
            // Order counts: every update depends on what it finds.
            let join = |old: i64, new: i64| old.wrapping_mul(3).wrapping_add(new);
            let mut wanted = before.clone();
            for (i, (&index, &update)) in at.iter().zip(&updates).enumerate() {
                let index = if outside == Outside::Wrap && index < 0 { index + n as i64 } else { index };
                if (0..n as i64).contains(&index) {
                    let place = (i / (m * inner) * n + index as usize) * inner + i % inner;
                    wanted[place] = join(wanted[place], update);
                }
            }
            let mut data = before;
            prop_assert_eq!(along(&mut data, Indices { at: &at, n, outside }, [m, inner], &updates, join), Ok(()));
            prop_assert_eq!(data, wanted);
        }
    }

    #[test]
    fn indices_outside_are_named_and_slices_skipped() {
        let along = |at: &[i64], n, inner, outside| {
            let updates = vec![1i64; at.len()];
            along(&mut vec![0; n * inner], Indices { at, n, outside }, [at.len() / inner, inner], &updates, |a, b| {
                a + b
            })
        };
        assert_eq!(along(&[0, -3], 2, 1, Outside::Wrap), Err(-3));
        assert_eq!(along(&[0, 1, 2, 0], 2, 2, Outside::Wrap), Err(2));
        assert_eq!(along(&[-1], 2, 1, Outside::Refuse), Err(-1));
        assert_eq!(along(&[5], 0, 1, Outside::Refuse), Err(5));
        assert_eq!(along(&[5], 0, 1, Outside::Skip), Ok(()));
        assert_eq!(along(&[i64::MIN, i64::MAX], 2, 1, Outside::Skip), Ok(()));
        let mut data = [1, 2, 3, 4];
        slices(&mut data, &[2, FILL, 2], 2, &[10, 20, 30, 40, 50, 60], |a, b| a + b);
        assert_eq!(data, [1, 2, 63, 84]);
    }
}
