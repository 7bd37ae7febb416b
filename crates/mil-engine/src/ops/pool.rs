//! Pooling in one, two and three dimensions.
//!
//! Semantics after the reference documentation of coremltools' `pool` chapter.

use candle_core::Tensor;

use super::conv::{Placed, Window, each_index};
use super::{OpSpec, since::*};
use crate::build::{Build, Run, check_size, one};
use crate::error::OpError;

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
        if rank == 0 || x.rank() != rank + 2 {
            return Err(OpError::shape(format!("pooling of {:?} with a kernel of {kernel:?}", x.shape())));
        }
        let input = &x.shape()[2..];
        let placed = window.place(input, &kernel, ceil)?;
        let mut shape = x.shape()[..2].to_vec();
        shape.extend(&placed.out);
        let mut out = Vec::with_capacity(check_size(&shape)?);
        let data = x.to_f32s()?;
        for plane in data.chunks_exact(input.iter().product::<usize>().max(1)) {
            each_index(&placed.out, |at| out.push(one_window(plane, input, &kernel, &placed, at, kind, exclude)));
        }
        one(x.with(Tensor::from_vec(out, shape, f.device())?))
    })
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
    let (mut best, mut sum, mut inside, mut counted) = (f32::NEG_INFINITY, 0f64, 0usize, 0usize);
    each_index(kernel, |tap| {
        let (mut flat, mut within, mut padded) = (0, true, true);
        for d in 0..input.len() {
            let i = at[d] * p.strides[d] + tap[d] * p.dilations[d];
            padded &= i < input[d] + p.before[d] + p.after[d];
            let i = i.wrapping_sub(p.before[d]);
            within &= i < input[d];
            flat = flat * input[d] + i.min(input[d] - 1);
        }
        counted += usize::from(padded);
        if within {
            inside += 1;
            let v = plane[flat];
            best = if v > best || v.is_nan() { v } else { best };
            sum += if kind == Kind::Norm { f64::from(v) * f64::from(v) } else { f64::from(v) };
        }
    });
    match kind {
        Kind::Max => best,
        Kind::Norm => sum.sqrt() as f32,
        Kind::Average => (sum / if exclude { inside } else { counted }.max(1) as f64) as f32,
    }
}
