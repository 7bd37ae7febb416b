//! Transposed convolutions.

use candle_core::{DType, Tensor};
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::conv::{Transposed, TransposedShape};
use coreml_kernels::packed::PANEL;

use super::{PadType, Window, add_bias, channels_last, channels_second, constant_weight, each_index, groups_of, three};
use crate::budget::{claim, claim_of, lent, products, temporary};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::ops::linear::Bias;
use crate::planned::Run;
use crate::shape::{MAX_ELEMENTS, check_size};
use crate::weight::Weight;

/// Maximum number of phases of a kernel that keeps a matrix per phase.
const PHASES: usize = 64;

/// Placement of a kernel over the results.
struct Placed {
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// Results cropped at the start.
    before: Vec<usize>,
    /// Results cropped at the end.
    after: Vec<usize>,
}

impl Placed {
    fn new(window: &Window, kernel: &[usize]) -> Result<Self, OpError> {
        let rank = kernel.len();
        let (strides, dilations) = window.steps(rank)?;
        let custom = window.custom(rank)?;
        let crops = (0..rank).map(|d| match window.pad_type {
            PadType::Valid => (0, 0),
            PadType::Custom => (custom[2 * d], custom[2 * d + 1]),
            kind @ (PadType::Same | PadType::SameLower) => {
                // The extent of the kernel beyond `input · stride` results.
                let total = span(kernel[d], dilations[d]).saturating_sub(strides[d]);
                let (less, more) = (total / 2, total - total / 2);
                if kind == PadType::SameLower { (more, less) } else { (less, more) }
            }
        });
        let (before, after) = crops.unzip();
        Ok(Self { strides, dilations, before, after })
    }

    /// Result extents for an input; the last entries of `wanted` if given.
    fn out(&self, input: &[usize], kernel: &[usize], wanted: Option<&[i64]>) -> Result<Vec<usize>, OpError> {
        let rank = kernel.len();
        let extent = |d: usize| {
            if let Some(n) = wanted.and_then(|w| w.get(w.len().checked_sub(rank)? + d)) {
                return usize::try_from(*n).map_err(|_| OpError::shape(format!("`output_shape` holds {n}")));
            }
            let last = (input[d].max(1) - 1).saturating_mul(self.strides[d]);
            let full = last.saturating_add(span(kernel[d], self.dilations[d]));
            full.checked_sub(self.before[d].saturating_add(self.after[d]))
                .ok_or_else(|| OpError::shape(format!("padding larger than the result {full}")))
        };
        (0..rank).map(extent).collect()
    }
}

/// Extent of a kernel including dilation gaps.
fn span(kernel: usize, dilation: usize) -> usize {
    (kernel.max(1) - 1).saturating_mul(dilation).saturating_add(1)
}

/// Reorders weights `[C_in, C_out / groups, kernel…]` for the kernel; `None` if unsupported.
fn prepare(weight: &Weight, groups: usize, placed: &Placed) -> Result<Option<Transposed>, OpError> {
    let shape = weight.shape();
    let kernel = &shape[2..];
    let phases = placed.strides.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
    let far = (0..kernel.len()).any(|d| {
        let span = span(kernel[d], placed.dilations[d]);
        span > MAX_ELEMENTS || placed.before[d] > span
    });
    if phases.is_none_or(|n| n > PHASES) || far || !shape[0].is_multiple_of(groups) || shape.contains(&0) {
        return Ok(None);
    }
    let (outputs, taps) = (shape[1], kernel.iter().product::<usize>());
    // Bytes in panels, whose outputs are padded to the panel width.
    let panels = (shape[0] * taps).saturating_mul(outputs.next_multiple_of(PANEL)).saturating_mul(size_of::<f32>());
    let shape = TransposedShape {
        groups,
        channels: [shape[0] / groups, outputs],
        kernel: three(kernel, 1),
        strides: three(&placed.strides, 1),
        dilations: three(&placed.dilations, 1),
        before: three(&placed.before, 0),
    };
    temporary(panels, || {
        let values = weight.expand(&candle_core::Device::Cpu)?.to_f32s()?;
        claim(panels)?;
        Ok(Some(Transposed::new(shape, |channel, output, tap| values[(channel * outputs + output) * taps + tap])))
    })
}

/// `conv_transpose(x, weight[C_in, C_out / groups, kernel…], bias?, pad?, output_shape?, pad_type, strides?,
/// dilations?, groups = 1)`.
pub(super) fn conv_transpose(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, weight, bias) = (b.slot("x")?, b.slot("weight")?, Bias::new(b)?);
    let window = Window::new(b)?;
    let groups = groups_of(b)?;
    let wanted = b.attr_opt::<Vec<i64>>("output_shape")?;
    let constant = constant_weight(b, weight)?.filter(|w| b.device().is_cpu() && (3..=5).contains(&w.shape().len()));
    let prepared = match &constant {
        Some(w) => prepare(w, groups, &Placed::new(&window, &w.shape()[2..])?)?,
        None => None,
    };
    b.run(move |f| {
        let x = f.array(x)?;
        let ws = match &constant {
            Some(w) => w.shape().to_vec(),
            None => f.array(weight)?.shape().to_vec(),
        };
        let xs = x.shape();
        let fits =
            xs.len() == ws.len() && (3..=5).contains(&xs.len()) && xs[1] == ws[0] && ws[0].is_multiple_of(groups);
        if !fits {
            return Err(OpError::shape(format!("conv_transpose of {xs:?} with weight {ws:?} in {groups} groups")));
        }
        let (input, kernel) = (&xs[2..], &ws[2..]);
        let placed = Placed::new(&window, kernel)?;
        let out = placed.out(input, kernel, wanted.as_deref())?;
        let shape = [&[xs[0], ws[1] * groups], out.as_slice()].concat();
        let count = check_size(&shape)?;
        let taps = kernel.iter().product::<usize>();
        products(&[xs.iter().product(), ws[1], taps])?;
        let bias = bias.get(f, ws[1] * groups)?;
        if let Some(weights) = prepared.as_ref().filter(|_| x.tensor().dtype() == DType::F32) {
            let last = layout::contiguous(&x.tensor().permute(channels_last(xs.len()))?)?;
            // The result and its phases.
            claim_of::<f32>(count)?;
            let starts = count.div_ceil(ws[1] * groups).saturating_mul(taps.saturating_mul(size_of::<usize>()));
            let _phases = lent(count.saturating_mul(size_of::<f32>()).saturating_add(starts))?;
            let run = |x: &[f32]| weights.run(x, xs[0], three(input, 1), three(&out, 1), bias.as_deref());
            if let Some(y) = with_f32s(&last, run) {
                let stored = [&[xs[0]], out.as_slice(), &[ws[1] * groups]].concat();
                let y = Tensor::from_vec(y, stored, f.device())?;
                return one(x.with(y.permute(channels_second(xs.len()))?));
            }
        }
        let y = general(x.tensor(), f.array(weight)?.tensor(), groups, &placed, &out)?;
        one(x.with(add_bias(&y, bias.as_deref())?))
    })
}

/// Columns = Wᵀ · x, scattered to the position of each tap.
fn general(x: &Tensor, w: &Tensor, groups: usize, placed: &Placed, out: &[usize]) -> Result<Tensor, OpError> {
    let (xs, ws) = (x.dims(), w.dims());
    let (input, kernel, per_group) = (&xs[2..], &ws[2..], ws[1]);
    let shape = [&[xs[0], per_group * groups], out].concat();
    let count = check_size(&shape)?;
    claim_of::<f32>(count)?;
    let mut y = zeros(count);
    let (plane_in, plane_out) = (input.iter().product::<usize>(), out.iter().product::<usize>());
    let taps: usize = kernel.iter().product();
    let channels = xs[1] / groups;
    // The columns of a group, twice, and copies of its input and weights.
    let columns = check_size(&[per_group, taps, plane_in])?.saturating_mul(2);
    let copies = channels.saturating_mul(plane_in.saturating_add(per_group.saturating_mul(2 * taps)));
    let _columns = lent(columns.saturating_add(copies).saturating_mul(size_of::<f32>()))?;
    for n in 0..xs[0] {
        for g in 0..groups {
            let xg = x.get(n)?.narrow(0, g * channels, channels)?.reshape((channels, plane_in))?;
            let wg = w.narrow(0, g * channels, channels)?.reshape((channels, per_group * taps))?;
            let columns: Vec<f32> = wg.t()?.contiguous()?.matmul(&xg.contiguous()?)?.flatten_all()?.to_vec1()?;
            let mut row = 0;
            for c in 0..per_group {
                let target = &mut y[((n * groups + g) * per_group + c) * plane_out..][..plane_out];
                each_index(kernel, |tap| {
                    let line = &columns[row * plane_in..(row + 1) * plane_in];
                    row += 1;
                    let mut i = 0;
                    each_index(input, |at| {
                        let mut flat = 0;
                        let mut inside = true;
                        for d in 0..out.len() {
                            let reach = tap[d].saturating_mul(placed.dilations[d]);
                            let o = at[d].saturating_mul(placed.strides[d]).saturating_add(reach);
                            let o = o.wrapping_sub(placed.before[d]);
                            inside &= o < out[d];
                            flat = flat * out[d] + o.min(out[d].saturating_sub(1));
                        }
                        if inside {
                            target[flat] += line[i];
                        }
                        i += 1;
                    });
                });
            }
        }
    }
    Ok(Tensor::from_vec(y, shape, x.device())?)
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn conv_transpose_spreads_each_element() {
        let body = "tensor<fp32, [1, 1, 4]> y = conv_transpose(x = x, weight = tensor<fp32, [1, 1, 2]>([[[1, 10]]]), \
            strides = tensor<int32, [1]>([2]));";
        near(&of(body, &[1, 1, 2], &[1.0, 2.0]), &[1.0, 10.0, 2.0, 20.0]);
        // Overlapping contributions add up.
        near(
            &of(&body.replace("[2]));", "[1]));").replace("1, 4]> y", "1, 3]> y"), &[1, 1, 2], &[1.0, 2.0]),
            &[1.0, 12.0, 20.0],
        );
    }
}
