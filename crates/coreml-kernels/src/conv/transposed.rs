//! Transposed convolution as ordinary convolutions.
//!
//! Results with the same position modulo the stride read the same taps: they form a convolution of stride one with
//! those taps reversed. There is one such phase per remainder; their results are interleaved.

use super::{Windows, conv_packed};
use crate::buffer_pool::{recycle, zeros};
use crate::gather::{Axis, AxisIndices, index_select};
use crate::packed::{Epilogue, Packed};
use crate::parallel::chunks_mut;
use crate::sizes::{checked, size};

/// Weights of a transposed convolution, by phase.
#[derive(Debug)]
pub struct Transposed {
    strides: [usize; 3],
    channels: usize,
    outputs: usize,
    /// `[strides]`.
    phases: Vec<Phase>,
}

/// Taps of one remainder along one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taps {
    /// Kernel taps, last one first.
    taps: Vec<usize>,
    /// Distance between the positions read.
    dilation: usize,
    /// Position read by the first tap for the first result.
    first: isize,
}

#[derive(Debug)]
struct Phase {
    along: [Taps; 3],
    /// `None` if no tap reaches these results.
    weights: Option<Packed>,
}

/// Sizes of a transposed convolution.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of channel groups.
    pub groups: usize,
    /// Channels and outputs per group.
    pub channels: [usize; 2],
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Stride of the results.
    pub strides: [usize; 3],
    /// Distance between taps.
    pub dilations: [usize; 3],
    /// Results cropped at the start.
    pub before: [usize; 3],
}

/// Maximum number of phases, and so of the growth of an image.
const PHASES: usize = 1 << 12;

impl Taps {
    /// Twice an upper bound of the distance between results of taps, including cropped ones; `None` if it overflows.
    fn reach(shape: &Shape, d: usize) -> Option<isize> {
        let taps = checked([shape.kernel[d], shape.dilations[d]])?;
        let reach = taps.checked_add(shape.before[d])?.checked_add(shape.strides[d])?.checked_mul(2)?;
        isize::try_from(reach).ok()
    }

    /// The kernel taps that contribute to results `remainder`, `remainder + stride`, …
    fn of(shape: &Shape, d: usize, remainder: usize) -> Self {
        let (stride, dilation) = (shape.strides[d], shape.dilations[d]);
        let at = (remainder + shape.before[d]) as isize;
        // Tap t of input i contributes to result i · stride + t · dilation − before.
        let source = |t: usize| at - (t * dilation) as isize;
        let reach = |t: &usize| source(*t).rem_euclid(stride as isize) == 0;
        let taps: Vec<usize> = (0..shape.kernel[d]).rev().filter(reach).collect();
        let position = |t: usize| source(t).div_euclid(stride as isize);
        let first = taps.first().map_or(0, |&t| position(t));
        let dilation = taps.get(1).map_or(1, |&t| (position(t) - first) as usize);
        Self { taps, dilation, first }
    }
}

impl Transposed {
    /// Packs weights by phase; `weight(channel, output, tap)` connects a channel, counted over all groups, with an
    /// output of its group, taps in row-major order.
    ///
    /// # Panics
    /// If a stride or dilation is zero, the size of the weights or their offsets overflow, or there are more than 4,096
    /// phases.
    pub fn new(shape: Shape, weight: impl Fn(usize, usize, usize) -> f32) -> Self {
        let Shape { groups, channels: [channels, outputs], strides, .. } = shape;
        assert!(strides.iter().chain(&shape.dilations).all(|&n| n > 0), "strides and dilations");
        assert!(checked(strides).is_some_and(|phases| phases <= PHASES), "number of phases");
        let (inputs, results) = (size([groups, channels]), size([groups, outputs]));
        // Without weights there is nothing to sum, regardless of the number of taps.
        let weights = size([inputs, outputs, size(shape.kernel), size_of::<f32>()]);
        assert!(isize::try_from(weights).is_ok(), "size of the weights");
        let shape = if weights == 0 { Shape { kernel: [0; 3], ..shape } } else { shape };
        let kernel = shape.kernel;
        assert!((0..3).all(|d| Taps::reach(&shape, d).is_some()), "reach of the taps");
        let remainders = |d: usize| 0..strides[d];
        let all = remainders(0).flat_map(|a| remainders(1).flat_map(move |b| remainders(2).map(move |c| [a, b, c])));
        let phase = |remainder: [usize; 3]| {
            let along = [0, 1, 2].map(|d| Taps::of(&shape, d, remainder[d]));
            let [a, b, c] = &along;
            let count = a.taps.len() * b.taps.len() * c.taps.len();
            let weights = (count > 0).then(|| {
                Packed::new(groups, outputs, count * channels, |r, out| {
                    let (group, o) = (r / outputs, r % outputs);
                    let mut parts = out.chunks_exact_mut(channels);
                    for (&i, &j) in a.taps.iter().flat_map(|i| b.taps.iter().map(move |j| (i, j))) {
                        for &k in &c.taps {
                            let tap = (i * kernel[1] + j) * kernel[2] + k;
                            let part = parts.next().expect("as many parts as taps");
                            part.iter_mut().enumerate().for_each(|(n, w)| *w = weight(group * channels + n, o, tap));
                        }
                    }
                })
            });
            Phase { along, weights }
        };
        Self { strides, channels: inputs, outputs: results, phases: all.map(phase).collect() }
    }

    /// `[images, out…, outputs]` from `x[images, input…, channels]`.
    ///
    /// # Panics
    /// If sizes do not match.
    pub fn run(&self, x: &[f32], images: usize, input: [usize; 3], out: [usize; 3], bias: Option<&[f32]>) -> Vec<f32> {
        let (outputs, [_, down, across]) = (self.outputs, self.strides);
        let [a, b, c] = input;
        assert_eq!(Some(x.len()), checked([images, a, b, c, self.channels]), "size of the images");
        assert!(bias.is_none_or(|b| b.len() == outputs), "length of the bias");
        let [lines, columns, width] = out;
        let mut y = zeros(size([images, lines, columns, width, outputs]));
        if y.is_empty() {
            return y;
        }
        if x.is_empty() {
            // Empty sum.
            if let Some(bias) = bias {
                y.chunks_exact_mut(outputs).for_each(|y| y.copy_from_slice(bias));
            }
            return y;
        }
        let parts: Vec<([usize; 3], Vec<f32>)> = (0..self.phases.len())
            .map(|i| {
                let remainder = [i / (down * across), i / across % down, i % across];
                let count = [0, 1, 2].map(|d| out[d].saturating_sub(remainder[d]).div_ceil(self.strides[d]));
                (count, self.phases[i].run(x, images, input, count, self.channels, bias).unwrap_or_default())
            })
            .collect();
        // Rows per task.
        let run = (1usize << 14).div_ceil(width * outputs);
        chunks_mut(&mut y, run * width * outputs, |task, y| {
            for (i, y) in y.chunks_exact_mut(width * outputs).enumerate() {
                let line = task * run + i;
                let at = [line / columns % lines, line % columns];
                let image = line / (lines * columns);
                let first = (at[0] % self.strides[0] * down + at[1] % down) * across;
                for (remainder, (count, part)) in parts[first..first + across].iter().enumerate() {
                    let row = (image * count[0] + at[0] / self.strides[0]) * count[1] + at[1] / down;
                    let targets = y.chunks_exact_mut(outputs).skip(remainder).step_by(across);
                    if part.is_empty() {
                        // No tap reaches these results.
                        if let Some(bias) = bias {
                            targets.for_each(|y| y.copy_from_slice(bias));
                        }
                        continue;
                    }
                    let part = &part[row * count[2] * outputs..][..count[2] * outputs];
                    targets.zip(part.chunks_exact(outputs)).for_each(|(y, v)| y.copy_from_slice(v));
                }
            }
        });
        parts.into_iter().for_each(|(_, part)| recycle(part));
        y
    }
}

impl Phase {
    /// `[images, count…, outputs]`; `None` if no tap reaches these results.
    fn run(
        &self,
        x: &[f32],
        images: usize,
        input: [usize; 3],
        count: [usize; 3],
        channels: usize,
        bias: Option<&[f32]>,
    ) -> Option<Vec<f32>> {
        let weights = self.weights.as_ref()?;
        let skip = [0, 1, 2].map(|d| usize::try_from(self.along[d].first).unwrap_or(0));
        let left = [0, 1, 2].map(|d| input[d].saturating_sub(skip[d]));
        let cropped = if skip == [0; 3] { Vec::new() } else { crop(x, images, input, left, channels) };
        let x = if skip == [0; 3] { x } else { &cropped };
        let windows = Windows {
            input: left,
            kernel: [0, 1, 2].map(|d| self.along[d].taps.len()),
            strides: [1; 3],
            dilations: [0, 1, 2].map(|d| self.along[d].dilation),
            before: [0, 1, 2].map(|d| usize::try_from(-self.along[d].first).unwrap_or(0)),
            out: count,
        };
        let result = conv_packed(&windows, x, images, weights, &Epilogue { bias, ..Epilogue::default() });
        recycle(cropped);
        Some(result)
    }
}

/// Crops to the last `left` positions along each dimension.
fn crop(x: &[f32], images: usize, input: [usize; 3], left: [usize; 3], channels: usize) -> Vec<f32> {
    let [a, b, c] = [0, 1, 2].map(|d| input[d] - left[d]..input[d]);
    let line = input[2] * channels;
    let places = [0..images, a, b, c.start * channels..c.end * channels].map(AxisIndices::Run);
    let strides = [input[0] * input[1] * line, input[1] * line, line, 1];
    let dims: [Axis<'_>; 4] = std::array::from_fn(|d| Axis { stride: strides[d], places: &places[d] });
    index_select(x, &dims, 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::values;
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn transposed_convolutions_agree_with_the_definition() {
        let shape = |kernel, strides, dilations, before| Shape {
            groups: 2,
            channels: [3, 5],
            kernel,
            strides,
            dilations,
            before,
        };
        for (shape, input, out) in [
            (shape([1, 4, 4], [1, 2, 2], [1; 3], [0, 1, 1]), [1, 3, 5], [1, 6, 10]),
            (shape([1, 2, 3], [1, 2, 2], [1; 3], [0, 1, 1]), [1, 4, 4], [1, 6, 8]),
            // Results that no tap reaches; taps with gaps; results beyond every tap.
            (shape([1, 1, 2], [1, 3, 4], [1; 3], [0, 0, 0]), [1, 3, 3], [1, 7, 10]),
            (shape([1, 3, 3], [1, 2, 3], [1, 2, 2], [0, 2, 3]), [1, 4, 4], [1, 7, 12]),
            (shape([2, 3, 1], [2, 1, 1], [1, 3, 1], [1, 0, 2]), [3, 4, 6], [5, 12, 4]),
            (shape([1, 1, 16], [1, 1, 8], [1; 3], [0, 0, 4]), [1, 1, 9], [1, 1, 72]),
        ] {
            let (groups, [channels, outputs]) = (shape.groups, shape.channels);
            let (plane, taps) = (input.iter().product::<usize>(), shape.kernel.iter().product::<usize>());
            let (x, images) = (values(2 * plane * groups * channels, 1), 2);
            let weights = values(groups * channels * outputs * taps, 2);
            let weight = |c: usize, o: usize, tap: usize| weights[(c * outputs + o) * taps + tap];
            let bias = values(groups * outputs, 3);
            let positions = out.iter().product::<usize>();
            let mut want = vec![0f64; images * positions * groups * outputs];
            want.iter_mut().enumerate().for_each(|(i, v)| *v = f64::from(bias[i % (groups * outputs)]));
            let index = |i: usize, e: [usize; 3]| [i / (e[1] * e[2]), i / e[2] % e[1], i % e[2]];
            for (at, tap) in (0..images * plane).flat_map(|at| (0..taps).map(move |tap| (at, tap))) {
                let (i, t) = (index(at % plane, input), index(tap, shape.kernel));
                let place = [0, 1, 2]
                    .map(|d| (i[d] * shape.strides[d] + t[d] * shape.dilations[d]).wrapping_sub(shape.before[d]));
                if (0..3).all(|d| place[d] < out[d]) {
                    let place = (place[0] * out[1] + place[1]) * out[2] + place[2];
                    for (c, o) in (0..groups * channels).flat_map(|c| (0..outputs).map(move |o| (c, o))) {
                        want[((at / plane * positions + place) * groups + c / channels) * outputs + o] +=
                            f64::from(x[at * groups * channels + c]) * f64::from(weight(c, o, tap));
                    }
                }
            }
            let y = Transposed::new(shape, weight).run(&x, images, input, out, Some(&bias));
            assert_eq!(y.len(), want.len());
            for (i, (&got, &want)) in y.iter().zip(&want).enumerate() {
                assert!((f64::from(got) - want).abs() < 2e-5, "{shape:?} at {i}: {got} != {want}");
            }
        }
    }
}
