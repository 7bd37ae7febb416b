//! argsort and top-k of rows.

use crate::parallel::{SPLIT, chunks_mut};

/// Elements with a total order, sorted together with their index; ties keep their order.
pub trait SortKey: Copy + Sync {
    /// Element and index packed into an integer.
    type Packed: Ord + Copy;
    /// Packs an element; `index` fits 32 bits.
    fn pack(self, ascending: bool, index: usize) -> Self::Packed;
    /// The index of a packed element.
    fn index(packed: Self::Packed) -> usize;
}

impl SortKey for f32 {
    type Packed = u64;

    /// Both zeros are equal, NaN comes last in either direction.
    #[inline(always)]
    fn pack(self, ascending: bool, index: usize) -> u64 {
        // Adding 0 maps −0 to 0.
        let bits = (self + 0.0).to_bits();
        let key = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        let key = if ascending { key } else { !key };
        u64::from(if self.is_nan() { u32::MAX } else { key }) << 32 | index as u64
    }

    #[inline(always)]
    fn index(packed: u64) -> usize {
        packed as u32 as usize
    }
}

impl SortKey for i64 {
    type Packed = u128;

    #[inline(always)]
    fn pack(self, ascending: bool, index: usize) -> u128 {
        let key = self as u64 ^ 1 << 63;
        u128::from(if ascending { key } else { !key }) << 32 | index as u128
    }

    #[inline(always)]
    fn index(packed: u128) -> usize {
        packed as u32 as usize
    }
}

/// Indices of the first `k` elements of each row of `n` in sorted order: the smallest if `ascending`, otherwise the
/// largest; ties keep their order.
///
/// # Panics
/// If `k` exceeds `n`, rows are incomplete, or `n` does not fit 32 bits.
pub fn top_k<T: SortKey>(x: &[T], n: usize, k: usize, ascending: bool) -> Vec<usize> {
    assert!(k <= n && u32::try_from(n).is_ok(), "elements of a row");
    if k == 0 {
        return Vec::new();
    }
    assert!(x.len().is_multiple_of(n), "whole rows");
    let mut out = vec![0; x.len() / n * k];
    let rows = SPLIT.div_ceil(4 * n);
    chunks_mut(&mut out, rows * k, |task, out| {
        let mut best = Vec::new();
        for (i, out) in out.chunks_exact_mut(k).enumerate() {
            row(&x[(task * rows + i) * n..][..n], k, ascending, &mut best);
            out.iter_mut().zip(&best).for_each(|(o, &p)| *o = T::index(p));
        }
    });
    out
}

/// Sorts the first `k` elements of a row.
fn row<T: SortKey>(x: &[T], k: usize, ascending: bool, best: &mut Vec<T::Packed>) {
    best.clear();
    let mut rest = x.iter().enumerate().map(|(i, &v)| v.pack(ascending, i));
    // Collects several times `k` candidates; afterwards, only elements before the k-th best.
    let most = if k < x.len() / 4 { (4 * k).max(256) } else { x.len() };
    best.extend(rest.by_ref().take(most));
    let cut = |best: &mut Vec<T::Packed>| {
        if k < best.len() {
            best.select_nth_unstable(k - 1);
            best.truncate(k);
        }
        best[k - 1]
    };
    let mut limit = cut(best);
    for packed in rest {
        if packed < limit {
            best.push(packed);
            if best.len() == most {
                limit = cut(best);
            }
        }
    }
    cut(best);
    best.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<T: SortKey + PartialOrd + std::fmt::Debug>(x: &[T], n: usize, k: usize) {
        // NaN, which does not equal itself, comes last.
        let is_nan = |v: &T| v.partial_cmp(v).is_none();
        for ascending in [true, false] {
            let got = top_k(x, n, k, ascending);
            let mut want: Vec<usize> = Vec::new();
            for row in x.chunks_exact(n) {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&a, &b| match row[a].partial_cmp(&row[b]) {
                    Some(by) if ascending => by,
                    Some(by) => by.reverse(),
                    None => is_nan(&row[a]).cmp(&is_nan(&row[b])),
                });
                want.extend(&order[..k]);
            }
            assert_eq!(got, want, "{k} of {n}, ascending {ascending}");
        }
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many elements")]
        fn the_first_are_those_of_a_stable_sort(
            x in prop::collection::vec(prop_oneof![-4i64..4, any::<i64>()], 1..3000), rows in 1usize..4, part in 0usize..8,
        ) {
            prop_assume!(x.len() >= rows);
            let n = x.len() / rows;
            let (x, k) = (&x[..n * rows], [0, 1, n.min(5), n / 9, n / 4, n / 2, n - 1, n][part]);
            check(x, n, k);
            let special = |&v: &i64| match v {
                3 => f32::NAN,
                2 => -0.0,
                1 => 0.0,
                -3 => -f32::NAN,
                v => v as f32,
            };
            check(&x.iter().map(special).collect::<Vec<f32>>(), n, k);
        }
    }

    #[test]
    fn rows_that_only_get_better_are_cut_again_and_again() {
        let x: Vec<f32> = (0..10_000).map(|i| i as f32).collect();
        check(&x, 5_000, 3);
        check(&[0f32; 2_000], 1_000, 300);
    }
}
