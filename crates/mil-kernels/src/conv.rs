//! Convolutions of channels-last images: `[images, spatial…, channels]`, up to three spatial dimensions.
//!
//! A convolution is the product of its patches with the weights; patches are copied where a product takes them, so that
//! the matrix of all patches never exists. Depthwise ones are summed directly.

use crate::matmul::matmul_rows;
use crate::matvec::Product;
use crate::parallel::chunks_mut;
use crate::vectorized::{Work, vectorized};

/// Where windows lie, for three spatial dimensions; what lacks some has extents of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Extents of an image.
    pub input: [usize; 3],
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Distance between windows.
    pub strides: [usize; 3],
    /// Distance between the taps of a window.
    pub dilations: [usize; 3],
    /// Padding before the first element.
    pub before: [usize; 3],
    /// Windows along each dimension.
    pub out: [usize; 3],
}

/// In which order a patch, and a row of weights, holds its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchOrder {
    /// `[taps, channels]`: quick to copy.
    TapsFirst,
    /// `[channels, taps]`: as model files store weights.
    ChannelsFirst,
}

impl Windows {
    fn positions(&self) -> usize {
        self.out.iter().product()
    }

    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    fn plane(&self) -> usize {
        self.input.iter().product()
    }

    /// Index of an output position along each dimension.
    fn place(&self, position: usize) -> [usize; 3] {
        let [_, b, c] = self.out;
        [position / (b * c), position / c % b, position % c]
    }

    /// Where a tap of a window reads along one dimension, if that is inside.
    fn source(&self, d: usize, window: usize, tap: usize) -> Option<usize> {
        let at = (window * self.strides[d] + tap * self.dilations[d]).checked_sub(self.before[d])?;
        (at < self.input[d]).then_some(at)
    }

    /// Calls `f(tap, position in the image)` for the taps of a window that read inside the image, in order.
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

    /// Copies the patch of one output position; zero where a window hangs over.
    fn patch(&self, image: &[f32], position: usize, channels: usize, order: PatchOrder, out: &mut [f32]) {
        let taps = self.taps();
        out.fill(0.0);
        self.each_tap(self.place(position), |tap, at| {
            let source = &image[at * channels..][..channels];
            match order {
                PatchOrder::TapsFirst => out[tap * channels..][..channels].copy_from_slice(source),
                PatchOrder::ChannelsFirst => out[tap..].iter_mut().step_by(taps).zip(source).for_each(|(o, &v)| *o = v),
            }
        });
    }

    /// Calls `work(image, windows of the line but for their last index, results)` for each line of windows.
    fn each_line(
        &self,
        x: &[f32],
        images: usize,
        channels: usize,
        out: &mut [f32],
        work: impl Fn(&[f32], [usize; 2], &mut [f32]) + Sync,
    ) {
        self.check(x, images, channels);
        assert_eq!(out.len(), images * self.positions() * channels, "size of the result");
        if out.is_empty() {
            return;
        }
        let (lines, plane) = (self.out[0] * self.out[1], self.plane() * channels);
        chunks_mut(out, self.out[2] * channels, |i, out| {
            let line = i % lines;
            work(&x[i / lines * plane..][..plane], [line / self.out[1], line % self.out[1]], out);
        });
    }

    fn check(&self, x: &[f32], images: usize, channels: usize) {
        assert_eq!(x.len(), images * self.plane() * channels, "size of the images");
    }
}

/// `out[images, out…, outputs]` from `x[images, input…, channels]`; a row of the weight is one output's, in the order
/// that is named.
///
/// # Panics
/// When a size does not fit another.
pub fn conv(windows: &Windows, order: PatchOrder, x: &[f32], images: usize, product: Product<'_, '_>) {
    let (positions, taps) = (windows.positions(), windows.taps());
    let cols = product.weight.cols();
    assert!(taps > 0 && cols.is_multiple_of(taps), "columns of the weight");
    let channels = cols / taps;
    windows.check(x, images, channels);
    let plane = windows.plane() * channels;
    let fill = |row: usize, out: &mut [f32]| {
        let image = &x[row / positions * plane..][..plane];
        windows.patch(image, row % positions, channels, order, out);
    };
    matmul_rows(&mut [product], images * positions, cols, &fill);
}

/// Each channel with its own kernel: `weights[taps, channels]`; `out[images, out…, channels]`.
///
/// # Panics
/// When a size does not fit another.
pub fn depthwise(windows: &Windows, x: &[f32], images: usize, weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let taps = windows.taps();
    assert!(taps > 0 && weights.len().is_multiple_of(taps), "number of weights");
    let channels = weights.len() / taps;
    assert!(bias.is_none_or(|b| b.len() == channels), "length of the bias");
    windows.each_line(x, images, channels, out, |image, outer, out| {
        vectorized(Line { windows, image, outer, weights, bias, out });
    });
}

/// One line of windows of a depthwise convolution.
struct Line<'a> {
    windows: &'a Windows,
    image: &'a [f32],
    outer: [usize; 2],
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
}

/// Channels whose sums are kept in registers.
const CHANNELS: usize = 32;

impl Work for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { windows, image, outer, weights, bias, out } = self;
        let channels = weights.len() / windows.taps();
        // Where each tap's weights and elements begin.
        let mut taps: Vec<(usize, usize)> = Vec::with_capacity(windows.taps());
        for (position, out) in out.chunks_exact_mut(channels).enumerate() {
            taps.clear();
            windows
                .each_tap([outer[0], outer[1], position], |tap, source| taps.push((tap * channels, source * channels)));
            let (blocks, rest) = out.as_chunks_mut::<CHANNELS>();
            let done = blocks.len() * CHANNELS;
            for (b, out) in blocks.iter_mut().enumerate() {
                let first = b * CHANNELS;
                let mut sums = [0f32; CHANNELS];
                if let Some(bias) = bias {
                    sums.copy_from_slice(&bias[first..first + CHANNELS]);
                }
                for &(tap, source) in &taps {
                    let x = &image[source + first..][..CHANNELS];
                    let w = &weights[tap + first..][..CHANNELS];
                    for c in 0..CHANNELS {
                        sums[c] += x[c] * w[c];
                    }
                }
                *out = sums;
            }
            for (c, o) in (done..).zip(rest) {
                let start = bias.map_or(0.0, |b| b[c]);
                *o = taps.iter().fold(start, |sum, &(tap, source)| sum + image[source + c] * weights[tap + c]);
            }
        }
    }
}

/// The largest element of each window, channel by channel: `out[images, out…, channels]`; −∞ where a window has none,
/// NaN where it has one.
///
/// # Panics
/// When a size does not fit another.
pub fn max_pool(windows: &Windows, x: &[f32], images: usize, channels: usize, out: &mut [f32]) {
    windows.each_line(x, images, channels, out, |image, outer, out| {
        vectorized(Largest { windows, image, outer, channels, out });
    });
}

/// One line of windows of a maximum.
struct Largest<'a> {
    windows: &'a Windows,
    image: &'a [f32],
    outer: [usize; 2],
    channels: usize,
    out: &'a mut [f32],
}

impl Work for Largest<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { windows, image, outer, channels, out } = self;
        for (position, out) in out.chunks_exact_mut(channels).enumerate() {
            out.fill(f32::NEG_INFINITY);
            windows.each_tap([outer[0], outer[1], position], |_, source| {
                let x = &image[source * channels..][..channels];
                for (o, &v) in out.iter_mut().zip(x) {
                    *o = if v > *o || v.is_nan() { v } else { *o };
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mat::{Form, WeightMat};

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed) % 97) as f32 / 48.0 - 1.0).collect()
    }

    fn windows() -> Vec<Windows> {
        let one =
            |input, kernel, strides, dilations, before, out| Windows { input, kernel, strides, dilations, before, out };
        vec![
            one([1, 5, 7], [1, 3, 3], [1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 5, 7]),
            one([1, 9, 8], [1, 3, 2], [1, 2, 3], [1, 2, 1], [0, 2, 0], [1, 4, 3]),
            one([3, 4, 5], [2, 3, 1], [1, 1, 2], [1, 1, 1], [1, 0, 0], [4, 2, 3]),
            one([1, 1, 40], [1, 1, 5], [1, 1, 1], [1, 1, 3], [0, 0, 20], [1, 1, 60]),
            one([1, 30, 30], [1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 30, 30]),
        ]
    }

    /// The sum by its definition, in f64.
    fn sum(w: &Windows, image: &[f32], channels: usize, position: usize, weight: impl Fn(usize, usize) -> f32) -> f64 {
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
    fn convolutions_agree_with_the_definition() {
        for w in windows() {
            for (channels, outputs, images) in [(3, 5, 2), (8, 7, 1)] {
                let x = values(images * w.plane() * channels, 1);
                let cols = w.taps() * channels;
                let weights = values(outputs * cols, 2);
                let bytes: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
                let bias = values(outputs, 3);
                for order in [PatchOrder::TapsFirst, PatchOrder::ChannelsFirst] {
                    let mut y = vec![f32::NAN; images * w.positions() * outputs];
                    let weight = WeightMat::new(outputs, cols, Form::F32(&bytes)).expect("sizes match");
                    conv(&w, order, &x, images, Product { weight, bias: Some(&bias), out: &mut y });
                    for (i, &y) in y.iter().enumerate() {
                        let (row, o) = (i / outputs, i % outputs);
                        let image = &x[row / w.positions() * w.plane() * channels..];
                        let at = |tap, c| match order {
                            PatchOrder::TapsFirst => weights[o * cols + tap * channels + c],
                            PatchOrder::ChannelsFirst => weights[o * cols + c * w.taps() + tap],
                        };
                        let want = f64::from(bias[o]) + sum(&w, image, channels, row % w.positions(), at);
                        assert!((f64::from(y) - want).abs() < 1e-4, "{w:?} {order:?} at {i}: {y} != {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn depthwise_convolutions_agree_with_the_definition() {
        for w in windows() {
            for (channels, images) in [(1, 2), (37, 2), (64, 1)] {
                let x = values(images * w.plane() * channels, 1);
                let (weights, bias) = (values(w.taps() * channels, 2), values(channels, 3));
                let mut y = vec![f32::NAN; images * w.positions() * channels];
                depthwise(&w, &x, images, &weights, Some(&bias), &mut y);
                for (i, &y) in y.iter().enumerate() {
                    let (row, c) = (i / channels, i % channels);
                    let image = &x[row / w.positions() * w.plane() * channels..];
                    let at = |tap, other| if other == c { weights[tap * channels + c] } else { 0.0 };
                    let want = f64::from(bias[c]) + sum(&w, image, channels, row % w.positions(), at);
                    assert!((f64::from(y) - want).abs() < 1e-4, "{w:?} at {i}: {y} != {want}");
                }
            }
        }
    }

    #[test]
    fn the_largest_is_found_nan_kept_and_nothing_is_less_than_all() {
        for w in windows() {
            let mut x = values(2 * w.plane() * 5, 1);
            x[7] = f32::NAN;
            let mut y = vec![0.0; 2 * w.positions() * 5];
            max_pool(&w, &x, 2, 5, &mut y);
            for (i, &y) in y.iter().enumerate() {
                let (row, c) = (i / 5, i % 5);
                let image = &x[row / w.positions() * w.plane() * 5..];
                let mut want = f32::NEG_INFINITY;
                w.each_tap(w.place(row % w.positions()), |_, at| {
                    let v = image[at * 5 + c];
                    want = if want.is_nan() || v.is_nan() { f32::NAN } else { want.max(v) };
                });
                assert!(y == want || y.is_nan() && want.is_nan(), "{w:?} at {i}: {y} != {want}");
            }
        }
    }
}
