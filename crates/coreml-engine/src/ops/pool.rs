//! Pooling in one, two and three dimensions.
//!
//! Semantics follow the reference documentation of coremltools' `pool` chapter.

use candle_core::Tensor;

use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::conv::{depthwise, max_pool};
use coreml_kernels::packed::Epilogue;
use coreml_kernels::parallel;

use super::conv::{Placed, Window, channels_last, each_index};
use crate::array::Array;
use crate::budget::{claim_of, lent, products};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::check_size;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("avg_pool", IOS15, |b| pool(b, Kind::Average)).kernel("pooling along lines"),
    OpSpec::new("l2_pool", IOS15, |b| pool(b, Kind::Norm)),
    OpSpec::new("max_pool", IOS15, |b| pool(b, Kind::Max)).kernel("pooling along lines"),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Average,
    Norm,
    Max,
}

/// `*_pool(x, kernel_sizes, strides?, pad_type, pad?, ceil_mode = false)`; average pooling also has
/// `exclude_padding_from_average = false`.
///
/// The average divides by all taps of the kernel, even if `ceil_mode` extends the window past the end (measured on Core
/// ML), or by the covered elements if padding is excluded. A kernel larger than the padded image counts as many taps as
/// the image has elements. A window that covers nothing has average 0 and maximum −∞.
fn pool(b: &OpBuilder<'_>, kind: Kind) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let kernel: Vec<i64> = b.attr("kernel_sizes")?;
    let kernel: Vec<usize> = kernel
        .into_iter()
        .map(|k| usize::try_from(k).ok().filter(|&k| k > 0).ok_or_else(|| OpError::shape(format!("a kernel of {k}"))))
        .collect::<Result<_, _>>()?;
    let window = Window::without_dilations(b)?;
    let ceil = b.attr_or("ceil_mode", false)?;
    let exclude = kind == Kind::Average && b.attr_or("exclude_padding_from_average", false)?;
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
        // A window reads only elements inside the input.
        let taps = |d: usize| kernel[d].min(input[d].max(1));
        products(&[count, (0..rank).map(taps).product()])?;
        claim_of::<f32>(count)?;
        if let Some(y) = by_lines(&x, &kernel, &placed, kind, exclude)? {
            return one(x.with(y));
        }
        let positions = placed.out.iter().product::<usize>();
        let planes = x.to_f32s()?;
        let plane = input.iter().product::<usize>();
        if count == 0 || plane == 0 {
            // Windows that cover only padding.
            let fill = if kind == Kind::Max { f32::NEG_INFINITY } else { 0.0 };
            return one(x.with(Tensor::full(fill, shape, f.device())?));
        }
        let mut out = zeros(count);
        parallel::chunks_mut(&mut out, positions, |i, out| {
            let (plane, mut out) = (&planes[i * plane..][..plane], out.iter_mut());
            each_index(&placed.out, |at| {
                if let Some(o) = out.next() {
                    *o = one_window(plane, input, &kernel, &placed, at, kind, exclude);
                }
            });
        });
        one(x.with(Tensor::from_vec(out, shape, f.device())?))
    })
}

/// Maximum number of taps of windows pooled by the kernels (maximum, average); larger averages are summed in f64.
const MOST_TAPS: [usize; 2] = [4096, 128];

/// Maxima and averages by the channels-last kernels. A tensor in another layout is treated as one image whose channels
/// are all planes. `None` for norms, large kernels and other devices.
fn by_lines(
    x: &Array,
    kernel: &[usize],
    placed: &Placed,
    kind: Kind,
    exclude: bool,
) -> Result<Option<Tensor>, OpError> {
    let t = x.tensor();
    let taps = kernel.iter().try_fold(1usize, |n, &k| n.checked_mul(k)).unwrap_or(usize::MAX);
    let limit = if kind == Kind::Max { MOST_TAPS[0] } else { MOST_TAPS[1] };
    if kind == Kind::Norm || taps > limit || t.elem_count() == 0 || !t.device().is_cpu() {
        return Ok(None);
    }
    let (images, channels) = (t.dims()[0], t.dims()[1]);
    let last = t.permute(channels_last(t.rank()))?;
    let (last, images, channels) = if last.is_contiguous() && channels > 1 {
        (last, images, channels)
    } else {
        let mut planes = vec![1, images * channels];
        planes.extend(&t.dims()[2..]);
        let planes = layout::contiguous(t)?.reshape(planes)?;
        (layout::contiguous(&planes.permute(channels_last(t.rank()))?)?, 1, images * channels)
    };
    let windows = placed.windows(t, kernel);
    // The size of each window, and one weight per tap and channel.
    let counted = placed.out.iter().product::<usize>().saturating_add(taps.saturating_mul(channels.saturating_add(4)));
    let _counts = lent(counted.saturating_mul(size_of::<f32>()))?;
    let pooled = with_f32s(&last, |x| match kind {
        Kind::Max => max_pool(&windows, x, images, channels),
        _ => {
            let mut sums = depthwise(&windows, x, images, &vec![1.0; taps * channels], &Epilogue::default());
            let counts = counts(placed, &t.dims()[2..], kernel, exclude);
            parallel::rows_mut(&mut sums, channels, |first, rows| {
                for (i, row) in rows.chunks_exact_mut(channels).enumerate() {
                    let count = counts[(first + i) % counts.len()];
                    row.iter_mut().for_each(|v| *v /= count);
                }
            });
            sums
        }
    });
    let Some(out) = pooled else { return Ok(None) };
    let mut shape = t.dims()[..2].to_vec();
    shape.extend(&placed.out);
    layout::reshape(&placed.result_of(out, images, channels, t.device())?, &shape).map(Some)
}

/// Number of elements averaged in each window.
fn counts(p: &Placed, input: &[usize], kernel: &[usize], exclude: bool) -> Vec<f32> {
    let mut all = Vec::with_capacity(p.out.iter().product());
    each_index(&p.out, |at| {
        let count = |d: usize| {
            if exclude { Reach::new(p, d, at[d], kernel[d], input[d]).count } else { p.taps(d, kernel, input) }
        };
        all.push((0..at.len()).map(count).product::<usize>().max(1) as f32);
    });
    all
}

/// The part of a window inside the input along one dimension.
#[derive(Clone, Copy, Default)]
struct Reach {
    /// First element inside, number of elements, and distance between them.
    first: usize,
    count: usize,
    step: usize,
}

impl Reach {
    fn new(p: &Placed, d: usize, at: usize, kernel: usize, input: usize) -> Self {
        let (start, step) = (at * p.strides[d], p.dilations[d]);
        // Taps before the input, then taps up to its end.
        let until = |end: usize| end.saturating_sub(start).div_ceil(step).min(kernel);
        let before = until(p.before[d]);
        let inside = until(p.before[d] + input);
        Self { first: (start + before * step).saturating_sub(p.before[d]), count: inside - before, step }
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
    // Three dimensions; missing outer ones have extent one.
    let whole = Reach { first: 0, count: 1, step: 1 };
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
    match kind {
        Kind::Max => best,
        Kind::Norm => sum.sqrt() as f32,
        Kind::Average if exclude => (sum / reach.iter().map(|r| r.count as f64).product::<f64>().max(1.0)) as f32,
        Kind::Average => (sum / (0..kernel.len()).map(|d| p.taps(d, kernel, input) as f64).product::<f64>()) as f32,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn max_pool_pads_with_less_than_any_number() {
        let body = "tensor<fp32, [1, 1, 2]> y = max_pool(x = x, kernel_sizes = tensor<int32, [1]>([2]), strides = tensor<int32, [1]>([2]), \
            pad_type = string(\"custom\"), pad = tensor<int32, [2]>([1, 1]), ceil_mode = bool(false));";
        near(&of(body, &[1, 1, 2], &[-3.0, -5.0]), &[-3.0, -5.0]);
    }

    #[test]
    fn avg_pool_counts_padding_unless_it_is_left_out() {
        let body = |left_out: bool| {
            format!(
                "tensor<fp32, [1, 1, 2]> y = avg_pool(x = x, kernel_sizes = tensor<int32, [1]>([2]), strides = tensor<int32, [1]>([2]), \
                 pad_type = string(\"custom\"), pad = tensor<int32, [2]>([1, 1]), exclude_padding_from_average = bool({left_out}), ceil_mode = bool(false));"
            )
        };
        near(&of(&body(false), &[1, 1, 2], &[4.0, 6.0]), &[2.0, 3.0]);
        near(&of(&body(true), &[1, 1, 2], &[4.0, 6.0]), &[4.0, 6.0]);
    }
}
