//! Convolutions of channels-last images: `[images, spatial…, channels]`, up to three spatial dimensions.
//!
//! A convolution is the product of its patches with the weights. With packed weights, a patch is a list of segments of
//! the image and nothing is copied; with stored weights, patches are copied a few at a time, so the full im2col matrix
//! never exists. Depthwise convolutions are summed directly.

#![allow(clippy::needless_range_loop, reason = "dimensions and lanes are addressed by number")]

use std::ops::Range;

use crate::matmul::matmul_rows;
use crate::matvec::Product;
use crate::sizes::{checked, size};

mod depthwise;
mod patches;
mod transposed;
mod winograd;

pub use depthwise::{depthwise, max_pool};
pub use patches::conv_packed;
pub use transposed::{Shape as TransposedShape, Transposed};
pub use winograd::Winograd;

/// Window geometry in three spatial dimensions; missing ones have extent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Extents of the image.
    pub input: [usize; 3],
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Stride between windows.
    pub strides: [usize; 3],
    /// Distance between the taps of a window.
    pub dilations: [usize; 3],
    /// Padding before the first element.
    pub before: [usize; 3],
    /// Number of windows along each dimension.
    pub out: [usize; 3],
}

impl Windows {
    /// Validates these windows over `images` of `channels` in `x`, and resets the stride of single windows and the
    /// dilation of single taps to one.
    ///
    /// With the result, no element offset overflows, including those of windows and taps outside the image.
    ///
    /// # Panics
    /// If the size of `x` is not that of the images, a stride or dilation is zero, or offsets of the windows overflow.
    fn checked(&self, x: &[f32], images: usize, channels: usize) -> Self {
        let [a, b, c] = self.input;
        assert_eq!(Some(x.len()), checked([images, a, b, c, channels]), "size of the images");
        assert!(self.strides.iter().chain(&self.dilations).all(|&n| n > 0), "strides and dilations");
        let step = |steps: [usize; 3], counts: [usize; 3]| [0, 1, 2].map(|d| if counts[d] > 1 { steps[d] } else { 1 });
        let windows =
            Self { strides: step(self.strides, self.out), dilations: step(self.dilations, self.kernel), ..*self };
        assert!((0..3).all(|d| windows.reach(d).is_some_and(|n| offset(n, channels))), "reach of the windows");
        let counts =
            [checked([images, a, b, c]), checked([a, b, c, channels]), checked(self.out), checked(self.kernel)];
        assert!(counts.iter().all(Option::is_some), "number of positions, windows and taps");
        windows
    }

    /// Upper bound of the distance between positions of windows and taps along one dimension, including padding.
    fn reach(&self, d: usize) -> Option<usize> {
        let (windows, taps) = (checked([self.out[d], self.strides[d]])?, checked([self.kernel[d], self.dilations[d]])?);
        windows.checked_add(taps)?.checked_add(self.before[d])?.checked_add(self.input[d])
    }

    fn positions(&self) -> usize {
        size(self.out)
    }

    fn taps(&self) -> usize {
        size(self.kernel)
    }

    /// True if windows and elements correspond one to one.
    fn is_identity(&self) -> bool {
        self.taps() == 1 && self.strides == [1; 3] && self.before == [0; 3] && self.out == self.input
    }

    fn plane(&self) -> usize {
        size(self.input)
    }

    /// Multi-index of an output position.
    fn place(&self, position: usize) -> [usize; 3] {
        let [_, b, c] = self.out;
        [position / (b * c), position / c % b, position % c]
    }

    /// Position read by a tap of a window along one dimension; `None` if outside.
    fn source(&self, d: usize, window: usize, tap: usize) -> Option<usize> {
        let at = (window * self.strides[d] + tap * self.dilations[d]).checked_sub(self.before[d])?;
        (at < self.input[d]).then_some(at)
    }

    /// Windows for which a tap reads inside the image along one dimension.
    fn inside(&self, d: usize, tap: usize) -> Range<usize> {
        let skipped = tap * self.dilations[d];
        let first = |position: usize| position.saturating_sub(skipped).div_ceil(self.strides[d]);
        first(self.before[d])..first(self.before[d] + self.input[d]).min(self.out[d])
    }

    /// Calls `f(tap, position in the image)` for the taps of a window inside the image, in order.
    #[inline(always)]
    fn each_tap(&self, at: [usize; 3], mut f: impl FnMut(usize, usize)) {
        let [kernel_0, kernel_1, kernel_2] = self.kernel;
        for (i, j) in (0..kernel_0).flat_map(|i| (0..kernel_1).map(move |j| (i, j))) {
            let (Some(a), Some(b)) = (self.source(0, at[0], i), self.source(1, at[1], j)) else { continue };
            for k in 0..kernel_2 {
                if let Some(c) = self.source(2, at[2], k) {
                    f((i * kernel_1 + j) * kernel_2 + k, (a * self.input[1] + b) * self.input[2] + c);
                }
            }
        }
    }

    /// Copies the patch of one output position, `[channels, taps]`; zero outside the image.
    fn patch(&self, image: &[f32], position: usize, channels: usize, out: &mut [f32]) {
        let taps = self.taps();
        out.fill(0.0);
        if out.is_empty() {
            return;
        }
        self.each_tap(self.place(position), |tap, at| {
            let source = &image[at * channels..][..channels];
            out[tap..].iter_mut().step_by(taps).zip(source).for_each(|(o, &v)| *o = v);
        });
    }

    /// Taps of a window that read inside the image along one dimension.
    fn taps_inside(&self, d: usize, window: usize) -> Range<usize> {
        let skipped = window * self.strides[d];
        let first = |position: usize| position.saturating_sub(skipped).div_ceil(self.dilations[d]).min(self.kernel[d]);
        first(self.before[d])..first(self.before[d] + self.input[d])
    }

    /// Image rows read by a row of windows: first tap of each, and position of its first element.
    fn rows(&self, outer: [usize; 2]) -> Vec<(usize, usize)> {
        if self.input[2] == 0 {
            return Vec::new();
        }
        let inside = [0, 1].map(|d| self.taps_inside(d, outer[d]));
        let mut rows = Vec::with_capacity(inside[0].len() * inside[1].len());
        for (i, j) in inside[0].clone().flat_map(|i| inside[1].clone().map(move |j| (i, j))) {
            if let (Some(a), Some(b)) = (self.source(0, outer[0], i), self.source(1, outer[1], j)) {
                rows.push(((i * self.kernel[1] + j) * self.kernel[2], (a * self.input[1] + b) * self.input[2]));
            }
        }
        rows
    }
}

/// True if element offsets of these positions fit `isize`.
fn offset(positions: usize, channels: usize) -> bool {
    checked([positions, channels.max(1)]).is_some_and(|n| isize::try_from(n).is_ok())
}

/// `out[images, out…, outputs]` from `x[images, input…, channels]`; a weight row belongs to one output and is stored as
/// `[channels, taps]`.
///
/// # Panics
/// If sizes do not match.
pub fn conv(windows: &Windows, x: &[f32], images: usize, product: Product<'_, '_>) {
    let cols = product.weight.cols();
    let taps = size(windows.kernel);
    assert!(taps > 0 && cols.is_multiple_of(taps), "columns of the weight");
    let channels = cols / taps;
    let windows = windows.checked(x, images, channels);
    let (positions, plane) = (windows.positions(), windows.plane() * channels);
    let fill = |row: usize, out: &mut [f32]| {
        let image = &x[row / positions * plane..][..plane];
        windows.patch(image, row % positions, channels, out);
    };
    matmul_rows(&mut [product], size([images, positions]), cols, &fill);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight_matrix::{Storage, WeightMatrix};

    pub(super) fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed) % 97) as f32 / 48.0 - 1.0).collect()
    }

    pub(super) fn windows() -> Vec<Windows> {
        let one =
            |input, kernel, strides, dilations, before, out| Windows { input, kernel, strides, dilations, before, out };
        vec![
            one([1, 5, 7], [1, 3, 3], [1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 5, 7]),
            one([1, 9, 8], [1, 3, 2], [1, 2, 3], [1, 2, 1], [0, 2, 0], [1, 4, 3]),
            one([3, 4, 5], [2, 3, 1], [1, 1, 2], [1, 1, 1], [1, 0, 0], [4, 2, 3]),
            one([1, 1, 40], [1, 1, 5], [1, 1, 1], [1, 1, 3], [0, 0, 20], [1, 1, 60]),
            one([1, 30, 30], [1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 30, 30]),
            one([1, 8, 9], [1, 3, 3], [1, 2, 2], [1, 1, 1], [0, 1, 1], [1, 4, 5]),
            one([1, 6, 7], [1, 5, 5], [1, 1, 1], [1, 1, 1], [0, 2, 2], [1, 6, 7]),
            one([1, 9, 15], [1, 5, 5], [1, 2, 2], [1, 1, 1], [0, 2, 2], [1, 5, 8]),
            one([1, 3, 3], [1, 5, 5], [1, 1, 1], [1, 1, 1], [0, 2, 2], [1, 3, 3]),
            one([1, 17, 20], [1, 3, 7], [1, 2, 2], [1, 1, 1], [0, 1, 3], [1, 9, 10]),
            one([1, 1, 6], [1, 1, 2], [1, 1, 3], [1, 1, 1], [0, 0, 5], [1, 1, 5]),
            one([1, 3, 0], [1, 3, 3], [1, 1, 1], [1, 1, 1], [0, 1, 2], [1, 3, 2]),
            one([1, 0, 3], [1, 3, 3], [1, 1, 1], [1, 1, 1], [0, 2, 1], [1, 2, 3]),
        ]
    }

    /// Direct sum in f64.
    pub(super) fn sum(
        w: &Windows,
        image: &[f32],
        channels: usize,
        position: usize,
        weight: impl Fn(usize, usize) -> f32,
    ) -> f64 {
        let mut sum = 0.0;
        let at = w.place(position);
        for tap in 0..w.taps() {
            let tap_at = [tap / (w.kernel[1] * w.kernel[2]), tap / w.kernel[2] % w.kernel[1], tap % w.kernel[2]];
            let source: Vec<i64> = (0..3)
                .map(|d| (at[d] * w.strides[d] + tap_at[d] * w.dilations[d]) as i64 - w.before[d] as i64)
                .collect();
            if (0..3).all(|d| (0..w.input[d] as i64).contains(&source[d])) {
                let index = (source[0] as usize * w.input[1] + source[1] as usize) * w.input[2] + source[2] as usize;
                for c in 0..channels {
                    sum += f64::from(image[index * channels + c]) * f64::from(weight(tap, c));
                }
            }
        }
        sum
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn convolutions_agree_with_the_definition() {
        for w in windows() {
            for (channels, outputs, images) in [(3, 5, 2), (8, 7, 1)] {
                let x = values(images * w.plane() * channels, 1);
                let cols = w.taps() * channels;
                let weights = values(outputs * cols, 2);
                let bytes: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
                let bias = values(outputs, 3);
                let mut y = vec![f32::NAN; images * w.positions() * outputs];
                let weight = WeightMatrix::new(outputs, cols, Storage::F32(&bytes)).expect("sizes match");
                conv(&w, &x, images, Product { weight, bias: Some(&bias), out: &mut y });
                for (i, &y) in y.iter().enumerate() {
                    let (row, o) = (i / outputs, i % outputs);
                    let image = &x[row / w.positions() * w.plane() * channels..];
                    let at = |tap, c| weights[o * cols + c * w.taps() + tap];
                    let want = f64::from(bias[o]) + sum(&w, image, channels, row % w.positions(), at);
                    assert!((f64::from(y) - want).abs() < 1e-4, "{w:?} at {i}: {y} != {want}");
                }
            }
        }
    }
}
