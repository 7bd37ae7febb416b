//! Products of two computed matrices; the right-hand one is packed first, unless it is small.

use std::ops::Range;

use super::small::{is_small, small};
use super::{Epilogue, Layout, PANEL, Packed, Rows, Starts, Variant, run_to};
use crate::aligned::Aligned;
use crate::parallel;
use crate::sizes;

/// Matrices of one size in any memory order.
#[derive(Clone, Copy)]
pub struct Matrices<'a> {
    /// Elements of all matrices.
    pub data: &'a [f32],
    /// Offset of the first element of each.
    pub starts: &'a [usize],
    /// Row and column strides.
    pub strides: [usize; 2],
}

impl Matrices<'_> {
    /// True if all matrices of this size lie in the data. If so, no offset of an element overflows.
    fn fit(&self, rows: usize, columns: usize) -> bool {
        let last = sizes::last([(rows, self.strides[0]), (columns, self.strides[1])]);
        let lies =
            |&start: &usize| last.and_then(|last| last.checked_add(start)).is_some_and(|at| at < self.data.len());
        rows == 0 || columns == 0 || self.starts.iter().all(lies)
    }

    /// Packs some columns of a matrix with `rows` rows, `[rows, PANEL]`.
    fn pack(&self, matrix: usize, rows: usize, columns: Range<usize>, panel: &mut [f32]) {
        let x = &self.data[self.starts[matrix]..];
        let [down, across] = self.strides;
        if across == 1 {
            for (row, out) in panel.chunks_exact_mut(PANEL).enumerate() {
                out[..columns.len()].copy_from_slice(&x[row * down + columns.start..][..columns.len()]);
            }
            return;
        }
        // A few rows at a time: the destination stays in L1.
        for first in (0..rows).step_by(PANEL) {
            for (j, column) in columns.clone().enumerate() {
                for row in first..rows.min(first + PANEL) {
                    panel[row * PANEL + j] = x[row * down + column * across];
                }
            }
        }
    }
}

/// `out[b, i, j] = Σ_k x[b, i, k] · y[b, k, j]` for sizes `[i, k, j]`; rows of `x` are contiguous.
///
/// # Panics
/// If sizes do not match.
pub fn multiply(sizes: [usize; 3], x: Matrices<'_>, y: Matrices<'_>) -> Vec<f32> {
    if is_small(sizes) {
        check(sizes, x, y);
        return small(sizes, x, y);
    }
    multiply_with(Variant::best(), sizes, x, y)
}

/// True if [`multiply`] packs the right-hand matrices of these sizes `[m, k, n]`.
pub fn is_packed(sizes: [usize; 3]) -> bool {
    !is_small(sizes)
}

fn check([m, k, n]: [usize; 3], x: Matrices<'_>, y: Matrices<'_>) {
    assert!(x.strides[1] == 1 || k < 2, "columns that are neighbours");
    assert!(x.starts.len() == y.starts.len() && x.fit(m, k) && y.fit(k, n), "sizes of the matrices");
}

fn multiply_with<'a>(variant: Variant, [m, k, n]: [usize; 3], x: Matrices<'a>, y: Matrices<'_>) -> Vec<f32> {
    check([m, k, n], x, y);
    let (groups, panels) = (y.starts.len(), n.div_ceil(PANEL));
    if sizes::size([groups, m, n]) == 0 {
        return Vec::new();
    }
    let (packed, size) = (sizes::size([groups, panels, k, PANEL]), sizes::size([k, PANEL]).max(1));
    let mut data = Aligned::empty();
    parallel::chunks_mut(data.at_least(packed), size, |i, panel| {
        let first = i % panels * PANEL;
        y.pack(i / panels, k, first..n.min(first + PANEL), panel);
    });
    let weights = Packed { groups, outputs: n, cols: k, data };
    let fill = |rows: Range<usize>, group: usize, out: &mut Starts<'_, 'a>| {
        // Empty rows may start anywhere.
        if k > 0 {
            out.run(0, 0..rows.len(), x.data, x.starts[group] + rows.start * x.strides[0], x.strides[0]);
        }
    };
    let rows = Rows { count: m, segments: (1, k), fill: &fill };
    run_to(variant, &rows, &weights, &Epilogue::default(), Layout { row: n, group: m * n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn every_variant_agrees_with_the_sums_in_f64_in_any_order_of_memory() {
        let value = |i: usize, seed: usize| ((i * 29 + seed * 11) % 83) as f32 / 40.0 - 1.0;
        for (count, [m, k, n]) in
            [(1, [1, 1, 1]), (3, [13, 40, 37]), (2, [30, 5, 64]), (2, [4, 0, 3]), (1, [70, 33, 32])]
        {
            let xs: Vec<f32> = (0..count * m * k).map(|i| value(i, 1)).collect();
            let ys: Vec<f32> = (0..count * k * n).map(|i| value(i, 2)).collect();
            let (x_starts, y_starts): (Vec<usize>, Vec<usize>) = (0..count).map(|b| (b * m * k, b * k * n)).unzip();
            // Row-major, column-major, and one shared matrix.
            for (y_starts, strides) in [(y_starts.clone(), [n, 1]), (y_starts, [1, k]), (vec![0; count], [n, 1])] {
                let x = Matrices { data: &xs, starts: &x_starts, strides: [k, 1] };
                let y = Matrices { data: &ys, starts: &y_starts, strides };
                let mut all: Vec<_> =
                    Variant::all().map(|variant| (variant.name(), multiply_with(variant, [m, k, n], x, y))).collect();
                all.extend(super::super::small::by_all([m, k, n], x, y));
                for (name, out) in all {
                    assert_eq!(out.len(), count * m * n);
                    for (at, &got) in out.iter().enumerate() {
                        let (b, i, j) = (at / (m * n), at / n % m, at % n);
                        let product = |c: usize| {
                            let y = ys[y_starts[b] + c * strides[0] + j * strides[1]];
                            f64::from(xs[b * m * k + i * k + c]) * f64::from(y)
                        };
                        let want: f64 = (0..k).map(product).sum();
                        let place = format!("{name} {count} × [{m}, {k}, {n}] at {at}");
                        assert!((f64::from(got) - want).abs() < 2e-5, "{place}: {got} != {want}");
                    }
                }
            }
        }
    }
}
