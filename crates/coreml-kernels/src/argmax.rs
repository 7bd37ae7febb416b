//! Index of the largest element over the middle of three extents, `[outer, size, inner]`.

#![allow(clippy::needless_range_loop, reason = "with iterators the lanes are compared one by one, in twice the time")]

use std::mem::MaybeUninit;

use crate::buffer_pool::alloc_rows_with;
use crate::dispatch::{SimdOp, dispatch};
use crate::sizes;

/// Lanes in which a row is compared, and columns compared at once.
const LANES: usize = 16;

/// Indices of the first largest elements, or with `smallest` of the first smallest; a NaN is both. The result has the extents
/// `[outer, inner]`.
///
/// # Panics
/// If the extents do not match the data or there is nothing to choose from.
pub fn argmax(x: &[f32], [outer, size, inner]: [usize; 3], smallest: bool) -> Vec<i64> {
    assert_eq!(Some(x.len()), sizes::checked([outer, size, inner]), "extents");
    assert!(size > 0 && u32::try_from(size).is_ok(), "elements to choose from");
    let sign = if smallest { -1.0 } else { 1.0 };
    if x.is_empty() {
        return Vec::new();
    }
    if inner == 1 {
        // SAFETY: every row has its result.
        return unsafe {
            alloc_rows_with(outer, 1, |first, out: &mut [MaybeUninit<i64>]| {
                let rows = &x[first * size..][..out.len() * size];
                dispatch(Lines { rows, size, sign, out });
            })
        };
    }
    // SAFETY: every column of every slab has its result.
    unsafe {
        alloc_rows_with(outer * inner, inner, |first, out: &mut [MaybeUninit<i64>]| {
            for (i, out) in out.chunks_exact_mut(inner).enumerate() {
                let slab = &x[(first + i) * size * inner..][..size * inner];
                for (group, out) in out.chunks_mut(LANES).enumerate() {
                    dispatch(Columns { slab, inner, from: group * LANES, sign, out });
                }
            }
        })
    }
}

/// Whether an element takes the place of the best one.
#[inline(always)]
fn better(x: f32, best: f32) -> bool {
    // Without branches: NaN is better than any number.
    (x > best) | (x.is_nan() & !best.is_nan())
}

/// The best elements so far, and their indices.
struct Best {
    values: [f32; LANES],
    at: [u32; LANES],
}

impl Best {
    /// Compares an element of each lane, with its index.
    #[inline(always)]
    fn compare(&mut self, x: &[f32; LANES], sign: f32, index: impl Fn(usize) -> u32) {
        for lane in 0..LANES {
            let v = x[lane] * sign;
            let take = better(v, self.values[lane]);
            self.values[lane] = if take { v } else { self.values[lane] };
            self.at[lane] = if take { index(lane) } else { self.at[lane] };
        }
    }
}

/// Rows of contiguous elements.
struct Lines<'a> {
    rows: &'a [f32],
    size: usize,
    sign: f32,
    out: &'a mut [MaybeUninit<i64>],
}

impl SimdOp for Lines<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (row, out) in self.rows.chunks_exact(self.size).zip(self.out) {
            out.write(i64::from(in_lanes(row, self.sign)));
        }
    }
}

#[inline(always)]
fn in_lanes(row: &[f32], sign: f32) -> u32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    // A lane of nothing but −∞ has its first one.
    let mut best = Best { values: [f32::NEG_INFINITY; LANES], at: std::array::from_fn(|lane| lane as u32) };
    for (block, x) in blocks.iter().enumerate() {
        let first = (block * LANES) as u32;
        best.compare(x, sign, |lane| first + lane as u32);
    }
    let lanes = if blocks.is_empty() { 0 } else { LANES };
    let mut found: Option<(f32, u32)> = None;
    let ends = rest.iter().enumerate().map(|(i, &v)| (v * sign, (row.len() - rest.len() + i) as u32));
    for (v, i) in best.values.into_iter().zip(best.at).take(lanes).chain(ends) {
        let first = found.is_none_or(|(best, at)| better(v, best) || (!better(best, v) && i < at));
        if first {
            found = Some((v, i));
        }
    }
    found.map_or(0, |(_, at)| at)
}

/// Some columns of a slab.
struct Columns<'a> {
    slab: &'a [f32],
    inner: usize,
    from: usize,
    sign: f32,
    out: &'a mut [MaybeUninit<i64>],
}

impl SimdOp for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.out.len();
        let mut best = Best { values: [f32::NEG_INFINITY; LANES], at: [0; LANES] };
        for (i, row) in self.slab.chunks_exact(self.inner).enumerate() {
            let row = &row[self.from..][..width];
            match row.first_chunk::<LANES>() {
                Some(row) => best.compare(row, self.sign, |_| i as u32),
                None => {
                    for (lane, v) in row.iter().map(|v| v * self.sign).enumerate() {
                        if better(v, best.values[lane]) {
                            (best.values[lane], best.at[lane]) = (v, i as u32);
                        }
                    }
                }
            }
        }
        for (out, at) in self.out.iter_mut().zip(best.at) {
            out.write(i64::from(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of which many are equal, with some infinities and NaN.
    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![
            20 => (-3i8..3).prop_map(f32::from),
            1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 3 => Just(f32::NEG_INFINITY), 1 => Just(-0.0)
        ]
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many elements")]
        fn the_first_of_the_best_is_found(
            outer in 1usize..5, size in 1usize..70, inner in prop_oneof![Just(1usize), 1usize..40],
            smallest in any::<bool>(), many in prop::collection::vec(number(), 70),
        ) {
            let x: Vec<f32> = (0..outer * size * inner).map(|i| many[(i * 31 + i / 70) % 70]).collect();
            let got = argmax(&x, [outer, size, inner], smallest);
            for (i, &got) in got.iter().enumerate() {
                let element = |k: usize| x[(i / inner * size + k) * inner + i % inner];
                let mut best = 0;
                for k in 1..size {
                    let (v, b) = (element(k), element(best));
                    let more = if smallest { v < b } else { v > b };
                    if more || (v.is_nan() && !b.is_nan()) {
                        best = k;
                    }
                }
                prop_assert_eq!(got, best as i64);
            }
        }
    }
}
