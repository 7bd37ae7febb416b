//! Pooling in one, two and three dimensions.
//!
//! Semantics after the reference documentation of coremltools' `pool` chapter.

use candle_core::Tensor;

use mil_kernels::conv::max_pool;

use super::conv::{Placed, Window, channels_last, each_index};
use super::{OpSpec, since::*};
use crate::build::{Build, Run, check_size, one};
use crate::error::OpError;
use crate::value::{Array, with_f32s};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("avg_pool", IOS15, |b| pool(b, Kind::Average)),
    OpSpec::new("l2_pool", IOS15, |b| pool(b, Kind::Norm)),
    OpSpec::new("max_pool", IOS15, |b| pool(b, Kind::Max)),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Average,
    Norm,
    Max,
}

/// `*_pool(x, kernel_sizes, strides?, pad_type, pad?, ceil_mode = false)`; the average also has
/// `exclude_padding_from_average = false`.
fn pool(b: &Build<'_>, kind: Kind) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let kernel: Vec<i64> = b.attr("kernel_sizes")?;
    let kernel: Vec<usize> = kernel
        .into_iter()
        .map(|k| usize::try_from(k).ok().filter(|&k| k > 0).ok_or_else(|| OpError::shape(format!("a kernel of {k}"))))
        .collect::<Result<_, _>>()?;
    let window = Window::new(b)?;
    let ceil = b.attr_or("ceil_mode", false)?;
    let exclude = b.attr_or("exclude_padding_from_average", false)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let rank = kernel.len();
        if rank == 0 || rank > 3 || x.rank() != rank + 2 {
            return Err(OpError::shape(format!("pooling of {:?} with a kernel of {kernel:?}", x.shape())));
        }
        let input = &x.shape()[2..];
        let placed = window.place(input, &kernel, ceil)?;
        let mut shape = x.shape()[..2].to_vec();
        shape.extend(&placed.out);
        let count = check_size(&shape)?;
        if let (Kind::Max, Some(y)) = (kind, largest(&x, &kernel, &placed)?) {
            return one(x.with(y));
        }
        let mut out = Vec::with_capacity(count);
        let data = x.to_f32s()?;
        for plane in data.chunks_exact(input.iter().product::<usize>().max(1)) {
            each_index(&placed.out, |at| out.push(one_window(plane, input, &kernel, &placed, at, kind, exclude)));
        }
        one(x.with(Tensor::from_vec(out, shape, f.device())?))
    })
}

/// The maximum where the channels of an f32 tensor on the CPU lie innermost in memory.
fn largest(x: &Array, kernel: &[usize], placed: &Placed) -> Result<Option<Tensor>, OpError> {
    let t = x.tensor();
    let last = t.permute(channels_last(t.rank()))?;
    if !last.is_contiguous() || t.dims()[1] == 1 {
        return Ok(None);
    }
    let windows = placed.windows(t, kernel);
    let (images, channels) = (t.dims()[0], t.dims()[1]);
    let pooled = with_f32s(&last, |x| max_pool(&windows, x, images, channels));
    pooled.map(|out| placed.result_of(out, images, channels, t.device())).transpose()
}

/// The part of a window that lies inside the input along one dimension.
#[derive(Clone, Copy, Default)]
struct Reach {
    /// First element inside, how many, and their distance.
    first: usize,
    count: usize,
    step: usize,
    /// Taps inside the input or its padding.
    padded: usize,
}

impl Reach {
    fn new(p: &Placed, d: usize, at: usize, kernel: usize, input: usize) -> Self {
        let (start, step) = (at * p.strides[d], p.dilations[d]);
        // Taps before the input, then taps until its end, then until the end of the padding.
        let until = |end: usize| end.saturating_sub(start).div_ceil(step).min(kernel);
        let before = until(p.before[d]);
        let inside = until(p.before[d] + input);
        Self {
            first: (start + before * step).saturating_sub(p.before[d]),
            count: inside - before,
            step,
            padded: until(p.before[d] + input + p.after[d]),
        }
    }

    fn elements(self) -> impl Iterator<Item = usize> + Clone {
        (0..self.count).map(move |i| self.first + i * self.step)
    }
}

fn one_window(
    plane: &[f32],
    input: &[usize],
    kernel: &[usize],
    p: &Placed,
    at: &[usize],
    kind: Kind,
    exclude: bool,
) -> f32 {
    // Three dimensions, the outer ones of extent one where there are fewer.
    let whole = Reach { first: 0, count: 1, step: 1, padded: 1 };
    let (mut reach, mut extents, missing) = ([whole; 3], [1; 3], 3 - input.len());
    for d in 0..input.len() {
        reach[missing + d] = Reach::new(p, d, at[d], kernel[d], input[d]);
        extents[missing + d] = input[d];
    }
    let (mut best, mut sum) = (f32::NEG_INFINITY, 0f64);
    for z in reach[0].elements() {
        for y in reach[1].elements() {
            let row = &plane[(z * extents[1] + y) * extents[2]..][..extents[2]];
            for x in reach[2].elements() {
                let v = row[x];
                best = if v > best || v.is_nan() { v } else { best };
                sum += if kind == Kind::Norm { f64::from(v) * f64::from(v) } else { f64::from(v) };
            }
        }
    }
    let product = |count: fn(&Reach) -> usize| reach.iter().map(|r| count(r) as f64).product::<f64>().max(1.0);
    match kind {
        Kind::Max => best,
        Kind::Norm => sum.sqrt() as f32,
        Kind::Average if exclude => (sum / product(|r| r.count)) as f32,
        Kind::Average => (sum / product(|r| r.padded)) as f32,
    }
}
