//! Linear interpolation of images: separable, or at arbitrary points.

use std::mem::MaybeUninit;

use crate::buffer_pool::alloc_with;
use crate::dispatch::{SimdOp, dispatch};
use crate::parallel::{TASK, threads};
use crate::sizes;

/// Two elements along a dimension and their interpolation weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between {
    /// Index of the first element.
    pub low: usize,
    /// Index of the second element.
    pub high: usize,
    /// Weight of the second element; the first has `1 − part`.
    pub part: f32,
}

/// `[planes, rows, columns, inner]` of `x[planes, h, w, inner]`: interpolates between columns, then between rows.
///
/// # Panics
/// If an element is out of range or planes are incomplete.
pub fn bilinear(x: &[f32], (h, w): (usize, usize), inner: usize, rows: &[Between], columns: &[Between]) -> Vec<f32> {
    let inside = |all: &[Between], n: usize| all.iter().all(|b| b.low < n && b.high < n);
    assert!(inside(rows, h) && inside(columns, w), "elements of a plane");
    if x.is_empty() || rows.is_empty() || columns.is_empty() || inner == 0 {
        return Vec::new();
    }
    let plane = sizes::checked([h, w, inner]).filter(|&plane| x.len().is_multiple_of(plane)).expect("whole planes");
    let width = sizes::size([columns.len(), inner]);
    let len = sizes::size([x.len() / plane, rows.len(), width]);
    // Neighbouring rows share lines interpolated between columns.
    let run = (4 * TASK).max(len.div_ceil(threads() * 8)).div_ceil(width);
    // SAFETY: every row is written.
    unsafe {
        alloc_with(len, run * width, |task, out: &mut [MaybeUninit<f32>]| {
            let mut lines = Lines { numbers: [usize::MAX; 2], elements: [vec![0f32; width], vec![0f32; width]] };
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let (image, row) = ((task * run + i) / rows.len(), rows[(task * run + i) % rows.len()]);
                let line = |at: usize| &x[image * plane + at * w * inner..][..w * inner];
                let low = lines.get(image * h + row.low, image * h + row.high, line(row.low), columns, inner);
                let high = lines.get(image * h + row.high, image * h + row.low, line(row.high), columns, inner);
                let (a, b) = (&lines.elements[low], &lines.elements[high]);
                dispatch(Mix { a, b, part: row.part, out });
            }
        })
    }
}

/// The last two lines interpolated between columns.
struct Lines {
    numbers: [usize; 2],
    elements: [Vec<f32>; 2],
}

impl Lines {
    /// Index of line `number`, computed if missing; line `other` is kept.
    fn get(&mut self, number: usize, other: usize, x: &[f32], columns: &[Between], inner: usize) -> usize {
        if let Some(at) = self.numbers.iter().position(|&n| n == number) {
            return at;
        }
        let at = usize::from(self.numbers[0] == other);
        self.numbers[at] = number;
        dispatch(Spread { x, columns, inner, out: &mut self.elements[at] });
        at
    }
}

/// `a · (1 − part) + b · part`.
struct Mix<'a> {
    a: &'a [f32],
    b: &'a [f32],
    part: f32,
    out: &'a mut [MaybeUninit<f32>],
}

impl SimdOp for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let rest = 1.0 - self.part;
        for (o, (&a, &b)) in self.out.iter_mut().zip(self.a.iter().zip(self.b)) {
            o.write(a * rest + b * self.part);
        }
    }
}

/// Interpolates a line between columns.
struct Spread<'a> {
    x: &'a [f32],
    columns: &'a [Between],
    inner: usize,
    out: &'a mut [f32],
}

impl SimdOp for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, columns, inner, out } = self;
        if inner == 1 {
            for (o, c) in out.iter_mut().zip(columns) {
                // SAFETY: `bilinear` has checked that columns lie in the line, which has an element for each.
                let (low, high) = unsafe { (*x.get_unchecked(c.low), *x.get_unchecked(c.high)) };
                *o = low * (1.0 - c.part) + high * c.part;
            }
            return;
        }
        for (out, c) in out.chunks_exact_mut(inner).zip(columns) {
            let (low, high) = (&x[c.low * inner..][..inner], &x[c.high * inner..][..inner]);
            for (o, (&a, &b)) in out.iter_mut().zip(low.iter().zip(high)) {
                *o = a * (1.0 - c.part) + b * c.part;
            }
        }
    }
}

/// Marks a position outside all images.
pub const OUTSIDE: usize = usize::MAX;

/// Up to four positions in an image and their weights; elements of weight zero are ignored, whatever their value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taps {
    /// Positions, possibly [`OUTSIDE`].
    pub at: [usize; 4],
    /// Their weights.
    pub weights: [f32; 4],
}

/// `[count, channels]`: for each index the weighted sum of positions of `x[positions, channels]`; elements outside are
/// `outside`.
///
/// # Panics
/// If a position is out of range and not [`OUTSIDE`].
pub fn sample(x: &[f32], channels: usize, count: usize, outside: f32, taps: impl Fn(usize) -> Taps + Sync) -> Vec<f32> {
    if count == 0 || channels == 0 {
        return Vec::new();
    }
    let run = TASK.div_ceil(channels);
    // SAFETY: every row is written.
    unsafe {
        alloc_with(sizes::size([count, channels]), run * channels, |task, out: &mut [MaybeUninit<f32>]| {
            for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                let taps = taps(task * run + i);
                dispatch(Sum { x, taps, outside, out });
            }
        })
    }
}

/// One row of [`sample`].
struct Sum<'a> {
    x: &'a [f32],
    taps: Taps,
    outside: f32,
    out: &'a mut [MaybeUninit<f32>],
}

impl SimdOp for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, taps: Taps { at, weights }, outside, out } = self;
        let channels = out.len();
        let inside = |i: usize| at[i] != OUTSIDE && weights[i] != 0.0;
        // Saturation also rejects positions whose product with the channels overflows.
        let position = |i: usize| &x[at[i].saturating_mul(channels)..][..channels];
        if inside(0) && inside(1) && inside(2) && inside(3) {
            let [a, b, c, d] = [position(0), position(1), position(2), position(3)];
            for i in 0..channels {
                out[i].write(weights[0] * a[i] + weights[1] * b[i] + weights[2] * c[i] + weights[3] * d[i]);
            }
            return;
        }
        out.fill(MaybeUninit::new(0.0));
        // SAFETY: just written.
        let out = unsafe { out.assume_init_mut() };
        for (i, &weight) in weights.iter().enumerate() {
            if inside(i) {
                for (o, &v) in out.iter_mut().zip(position(i)) {
                    *o += weight * v;
                }
            } else if weight * outside != 0.0 && weight != 0.0 {
                for o in out.iter_mut() {
                    *o += weight * outside;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37) % 101) as f32 / 8.0 - 6.0).collect()
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many elements")]
        fn planes_are_interpolated_by_the_formula(
            planes in 1usize..5, h in 1usize..9, w in 1usize..40, inner in prop_oneof![Just(1usize), 1usize..40],
            down in prop::collection::vec((any::<u16>(), 0f32..=1.0), 0..20),
            across in prop::collection::vec((any::<u16>(), 0f32..=1.0), 0..90),
        ) {
            let between = |all: &[(u16, f32)], n: usize| -> Vec<Between> {
                let one = |&(at, part): &(u16, f32)| {
                    let low = usize::from(at) % n;
                    Between { low, high: (low + 1).min(n - 1), part }
                };
                all.iter().map(one).collect()
            };
            let (rows, columns) = (between(&down, h), between(&across, w));
            let x = values(planes * h * w * inner);
            let y = bilinear(&x, (h, w), inner, &rows, &columns);
            prop_assert_eq!(y.len(), planes * rows.len() * columns.len() * inner);
            for (i, &y) in y.iter().enumerate() {
                let (c, j) = (i % inner, i / inner % columns.len());
                let (r, p) = (i / inner / columns.len() % rows.len(), i / inner / columns.len() / rows.len());
                let (row, column) = (rows[r], columns[j]);
                let at = |a: usize, b: usize| x[((p * h + a) * w + b) * inner + c];
                let mix = |a| at(a, column.low) * (1.0 - column.part) + at(a, column.high) * column.part;
                prop_assert_eq!(y, mix(row.low) * (1.0 - row.part) + mix(row.high) * row.part);
            }
        }

        #[test]
        #[cfg_attr(miri, ignore = "many elements")]
        fn samples_are_weighted_sums_and_weights_of_zero_take_nothing(
            positions in 1usize..50, channels in 1usize..40, count in 0usize..300, seed in any::<u32>(),
        ) {
            let mut x = values(positions * channels);
            x[0] = f32::NAN;
            let taps = |i: usize| {
                let mut next = (seed as usize).wrapping_add(i * 7919);
                let at = std::array::from_fn(|_| {
                    next = next.wrapping_mul(31).wrapping_add(17);
                    if next.is_multiple_of(5) { OUTSIDE } else { next % positions }
                });
                let weights = std::array::from_fn(|k| if (next >> k).is_multiple_of(3) || at[k] == 0 { 0.0 } else { k as f32 + 0.5 });
                Taps { at, weights }
            };
            let y = sample(&x, channels, count, 3.0, taps);
            prop_assert_eq!(y.len(), count * channels);
            for (i, &y) in y.iter().enumerate() {
                let (taps, c) = (taps(i / channels), i % channels);
                let term = |k: usize| match (taps.weights[k], taps.at[k]) {
                    (0.0, _) => 0.0,
                    (w, OUTSIDE) => w * 3.0,
                    (w, at) => w * x[at * channels + c],
                };
                prop_assert_eq!(y, term(0) + term(1) + term(2) + term(3));
            }
        }
    }
}
