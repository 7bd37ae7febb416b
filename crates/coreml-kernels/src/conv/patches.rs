//! Convolution as a product of patches read in place: the windows of a row start at a constant stride.

use std::ops::Range;

use super::Windows;
use crate::buffer_pool::{recycle, zeros};
use crate::packed::{self, Epilogue, Packed, Rows, Starts, Variant};
use crate::sizes::{checked, size};

/// Minimum number of channels for one segment per tap; below, a row of taps is one segment.
const NARROW: usize = 16;

/// `[images, out…, outputs]` from `x[images, input…, channels]`, including the epilogue; weights are packed taps first,
/// `[outputs, taps, channels of a group]`.
///
/// # Panics
/// If sizes do not match.
pub fn conv_packed(windows: &Windows, x: &[f32], images: usize, weights: &Packed, epilogue: &Epilogue<'_>) -> Vec<f32> {
    conv_packed_with(Variant::best(), windows, x, images, weights, epilogue)
}

fn conv_packed_with(
    variant: Variant,
    windows: &Windows,
    x: &[f32],
    images: usize,
    weights: &Packed,
    epilogue: &Epilogue<'_>,
) -> Vec<f32> {
    let taps = size(windows.kernel);
    assert!(taps > 0 && weights.cols().is_multiple_of(taps), "columns of the weights");
    let (own, groups) = (weights.cols() / taps, weights.groups());
    let channels = size([own, groups]);
    let windows = &windows.checked(x, images, channels);
    let count = size([images, windows.positions()]);
    if count == 0 || weights.outputs() == 0 {
        return Vec::new();
    }
    if own == 0 {
        // Empty sum, regardless of the number of taps.
        return multiply(variant, (count, 1, 0), weights, epilogue, |_, _, _| {});
    }
    if windows.is_identity() {
        return multiply(variant, (count, 1, own), weights, epilogue, |rows, group, out| {
            out.run(0, 0..rows.len(), x, rows.start * channels + group * own, channels);
        });
    }
    let narrow = groups == 1 && own < NARROW && windows.dilations[2] == 1 && Edges::are_few(windows, x, channels);
    let edges = if narrow { Edges::new(windows, x, images, channels) } else { Edges::default() };
    let (runs, steps) = if narrow {
        (whole_rows(windows, x, channels, &edges), 1)
    } else {
        (single_taps(windows, x, channels), windows.kernel[2])
    };
    let (positions, [outer, inner, _]) = (windows.positions(), windows.kernel);
    let sizes = (count, outer * inner * steps, weights.cols() / (outer * inner * steps));
    let result = multiply(variant, sizes, weights, epilogue, |rows, group, out| {
        let mut row = rows.start;
        while row < rows.end {
            let (image, at) = (row / positions, windows.place(row % positions));
            // Windows of one row, starting at this offset from the first patch.
            let (line, done) = (at[2]..windows.out[2].min(at[2] + rows.end - row), row - rows.start);
            for (i, j) in (0..outer).flat_map(|i| (0..inner).map(move |j| (i, j))) {
                let Some((a, b)) = windows.source(0, at[0], i).zip(windows.source(1, at[1], j)) else { continue };
                let source = (image * windows.input[0] + a) * windows.input[1] + b;
                for run in &runs {
                    let (from, to) = (line.start.max(run.windows.start), line.end.min(run.windows.end));
                    if from < to {
                        let step = windows.strides[2] * channels;
                        let first = source * run.width + run.first + (from - run.windows.start) * step + group * own;
                        let rows = done + from - line.start..done + to - line.start;
                        out.run((i * inner + j) * steps + run.segment, rows, run.lines, first, step);
                    }
                }
            }
            row += line.len();
        }
    });
    recycle(edges.elements);
    result
}

/// Product of the rows located by `fill`, given the number of rows, segments per row, and elements per segment.
fn multiply<'a>(
    variant: Variant,
    (count, segments, length): (usize, usize, usize),
    weights: &Packed,
    epilogue: &Epilogue<'_>,
    fill: impl Fn(Range<usize>, usize, &mut Starts<'_, 'a>) + Sync,
) -> Vec<f32> {
    packed::run(variant, &Rows { count, segments: (segments, length), fill: &fill }, weights, epilogue)
}

/// Segments that consecutive windows of a row read for one row of taps, at a constant stride.
struct Run<'a> {
    windows: Range<usize>,
    /// Index of the segment in the row of taps.
    segment: usize,
    /// Image rows of `width` elements.
    lines: &'a [f32],
    width: usize,
    /// Offset read by the first window.
    first: usize,
}

/// One segment per tap, for the windows in which it lies inside the image.
fn single_taps<'a>(windows: &Windows, x: &'a [f32], channels: usize) -> Vec<Run<'a>> {
    let run = |tap: usize| {
        let inside = windows.inside(2, tap);
        let column = windows.source(2, inside.start, tap)?;
        let (width, first) = (windows.input[2] * channels, column * channels);
        Some(Run { windows: inside, segment: tap, lines: x, width, first })
    };
    (0..windows.kernel[2]).filter_map(run).collect()
}

/// One segment per row of taps, from the images or the padded copies of their edges.
fn whole_rows<'a>(windows: &Windows, x: &'a [f32], channels: usize, edges: &'a Edges) -> Vec<Run<'a>> {
    let inside = whole(windows);
    let first = (inside.start * windows.strides[2]).saturating_sub(windows.before[2]) * channels;
    let edge = |windows: Range<usize>, first: usize| Run {
        windows,
        segment: 0,
        lines: &edges.elements,
        width: edges.width,
        first,
    };
    let (front, back) = (edge(0..inside.start, 0), edge(inside.end..windows.out[2], edges.back));
    vec![front, Run { windows: inside, segment: 0, lines: x, width: windows.input[2] * channels, first }, back]
}

/// Windows of a row with all taps inside; if there are none, an empty range at the end.
fn whole(windows: &Windows) -> Range<usize> {
    let (start, end) = (windows.inside(2, 0).start, windows.inside(2, windows.kernel[2] - 1).end);
    if start < end { start..end } else { windows.out[2]..windows.out[2] }
}

/// Zero-padded copies of the inputs of windows that extend past row ends.
#[derive(Default)]
struct Edges {
    /// For each image row the inputs of windows at its front, then at its back.
    elements: Vec<f32>,
    /// Elements per row.
    width: usize,
    /// Offset of the back part in a row.
    back: usize,
}

/// Limit on the size of edge copies, relative to the images and absolute: padding far wider than the image would take
/// memory unrelated to images and results.
const SMALL_INPUT: (usize, usize) = (8, 1 << 16);

impl Edges {
    /// Windows past the front and the back of a row, and the extents they read.
    fn parts(windows: &Windows) -> [(Range<usize>, usize); 2] {
        let inside = whole(windows);
        [0..inside.start, inside.end..windows.out[2]].map(|part| {
            let reach = match part.len() {
                0 => 0,
                n => (n - 1) * windows.strides[2] + windows.kernel[2],
            };
            (part, reach)
        })
    }

    /// True if the copies do not take much more memory than the images.
    fn are_few(windows: &Windows, x: &[f32], channels: usize) -> bool {
        let [(_, front), (_, back)] = Self::parts(windows);
        // Image rows, possibly without elements.
        let lines = x.len().checked_div(windows.input[2] * channels).unwrap_or(usize::MAX);
        let most = x.len().saturating_mul(SMALL_INPUT.0).max(SMALL_INPUT.1);
        front.checked_add(back).and_then(|n| checked([lines, n, channels])).is_some_and(|n| n <= most)
    }

    /// Copies edges for windows without dilation.
    fn new(windows: &Windows, x: &[f32], images: usize, channels: usize) -> Self {
        let (input, before) = (windows.input[2], windows.before[2]);
        let [(front, split), (back, rest)] = Self::parts(windows);
        let (split, width) = (split * channels, (split + rest) * channels);
        if width == 0 {
            return Self::default();
        }
        let mut elements = zeros(images * windows.input[0] * windows.input[1] * width);
        for (i, edges) in elements.chunks_exact_mut(width).enumerate() {
            let line = &x[i * input * channels..][..input * channels];
            let (one, other) = edges.split_at_mut(split);
            for (range, edge) in [(&front, one), (&back, other)] {
                // Columns including the padding.
                let first = range.start * windows.strides[2];
                let (from, to) = (first.max(before), (first + edge.len() / channels).min(before + input));
                if from < to {
                    let inside = &line[(from - before) * channels..(to - before) * channels];
                    edge[(from - first) * channels..][..inside.len()].copy_from_slice(inside);
                }
            }
        }
        Self { elements, width, back: split }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sum, values, windows};
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn packed_convolutions_agree_with_the_definition() {
        for w in windows() {
            for (own, outputs, groups, images) in [(3, 5, 1, 2), (20, 40, 1, 1), (2, 3, 4, 2)] {
                let channels = own * groups;
                let x = values(images * w.plane() * channels, 1);
                let cols = w.taps() * own;
                let weights = values(groups * outputs * cols, 2);
                let packed =
                    Packed::new(groups, outputs, cols, |r, out| out.copy_from_slice(&weights[r * cols..][..cols]));
                let bias = values(groups * outputs, 3);
                for variant in Variant::all() {
                    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
                    let y = conv_packed_with(variant, &w, &x, images, &packed, &epilogue);
                    assert_eq!(y.len(), images * w.positions() * groups * outputs);
                    for (i, &y) in y.iter().enumerate() {
                        let (row, o) = (i / (groups * outputs), i % (groups * outputs));
                        let image = &x[row / w.positions() * w.plane() * channels..];
                        let group = o / outputs;
                        let at = |tap, c: usize| match c.checked_sub(group * own).filter(|&c| c < own) {
                            Some(c) => weights[o * cols + tap * own + c],
                            None => 0.0,
                        };
                        let want = f64::from(bias[o]) + sum(&w, image, channels, row % w.positions(), at);
                        let close = (f64::from(y) - want).abs() < 1e-4f64.max(want.abs() * 4e-6);
                        assert!(close, "{} {w:?} at {i}: {y} != {want}", variant.name());
                    }
                }
            }
        }
    }
}
