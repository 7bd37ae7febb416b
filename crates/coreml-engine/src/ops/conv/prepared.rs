//! Convolutions with constant weights on the CPU, reordered for channels-last kernels.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::conv::{Windows, Winograd, conv, conv_packed, depthwise};
use coreml_kernels::matvec::Product;
use coreml_kernels::parallel;

use super::{Placed, Window, channels_last};
use crate::array::Array;
use crate::budget;
use crate::error::OpError;
use crate::frame::Frame;
use crate::layout;
use crate::ops::epilogue::EpilogueSpec;
use crate::ops::packed_weight::PackedWeight;
use crate::shape::check_size;
use crate::weight::Weight;

/// Weights reordered once.
pub(super) struct Prepared {
    kernel: Vec<usize>,
    groups: usize,
    outputs: usize,
    form: Form,
    /// Winograd-transformed weights for dense 3 × 3 windows of stride one, if worthwhile.
    square: Option<OnceLock<Winograd>>,
}

enum Form {
    /// Dense weights in panels.
    PackedWeight(PackedWeight),
    /// One matrix for all channels, in stored form: `[outputs, channels, taps]`.
    Stored(Arc<Weight>),
    /// Depthwise weights `[taps, channels]`.
    Depthwise(Vec<f32>),
}

/// Transposes `[A, taps]` to `[taps, A]`.
fn taps_first(values: &[f32], taps: usize) -> Result<Vec<f32>, OpError> {
    let channels = values.len() / taps;
    budget::collect((0..values.len()).map(|i| values[i % channels * taps + i / channels]))
}

impl Prepared {
    /// `None` for weights without a kernel: compressed ones in groups, empty ones, other devices. `result` is the
    /// declared result shape, if known.
    pub(super) fn new(
        weight: &Arc<Weight>,
        groups: usize,
        window: &Window,
        result: Option<&[usize]>,
        device: &Device,
    ) -> Result<Option<Self>, OpError> {
        let shape = weight.shape();
        if !device.is_cpu() || !(3..=5).contains(&shape.len()) || shape.contains(&0) {
            return Ok(None);
        }
        let (outputs, taps) = (shape[0], shape[2..].iter().product());
        let mut square = None;
        let form = if groups == outputs && shape[1] == 1 && groups > 1 {
            Form::Depthwise(taps_first(&weight.expand(device)?.to_f32s()?, taps)?)
        } else if let Some(panels) = PackedWeight::new(weight, groups, device) {
            // Only products per position use the stored form.
            square = (shape[2..] == [3, 3] && groups == 1 && window.is_dense()).then(OnceLock::new);
            match (&square, result) {
                (Some(made), Some(&[images, _, height, width]))
                    if Winograd::is_worthwhile(images, [height, width], shape[1], outputs) =>
                {
                    let _ = made.set(panels.winograd()?);
                }
                // Decided at run time.
                (Some(_), None) => {}
                _ if taps > 1 => _ = panels.packed()?,
                _ => {}
            }
            Form::PackedWeight(panels)
        } else if groups == 1 && weight.matrix().is_some() {
            Form::Stored(weight.clone())
        } else {
            return Ok(None);
        };
        Ok(Some(Self { kernel: shape[2..].to_vec(), groups, outputs, form, square }))
    }

    /// Transformed weights, if worthwhile for these windows.
    fn winograd(&self, windows: &Windows, images: usize, channels: usize) -> Result<Option<&Winograd>, OpError> {
        let (Some(made), Form::PackedWeight(panels)) = (&self.square, &self.form) else { return Ok(None) };
        let [_, height, width] = windows.out;
        if !Winograd::supports(windows) || !Winograd::is_worthwhile(images, [height, width], channels, self.outputs) {
            return Ok(None);
        }
        if made.get().is_none() {
            let _ = made.set(panels.winograd()?);
        }
        Ok(made.get())
    }

    /// Upper bound in bytes of the temporaries of a convolution: copies of windows that extend past row ends, patch
    /// rows for products, and offsets of contiguous segments.
    fn scratch(&self, windows: &Windows, images: usize, channels: usize) -> usize {
        let (taps, positions) = (windows.kernel.iter().product::<usize>(), windows.out.iter().product::<usize>());
        let lines = images.saturating_mul(windows.input[0]).saturating_mul(windows.input[1]);
        let over = windows.kernel[2].saturating_add(windows.before[2]).saturating_mul(2 * channels);
        let edges = lines.saturating_mul(over);
        let rows = match self.form {
            // For many rows, each thread processes a few at a time.
            Form::Stored(_) => {
                let row = taps.saturating_mul(channels).saturating_add(64);
                let shares = parallel::threads().saturating_mul(row.saturating_mul(8).max(1 << 17)).max(1 << 18);
                images.saturating_mul(positions).saturating_mul(row).min(shares)
            }
            _ => {
                positions.saturating_mul(images).saturating_mul(4 * taps.min(windows.kernel[0] * windows.kernel[1] * 4))
            }
        };
        edges.saturating_add(rows).saturating_mul(size_of::<f32>())
    }

    /// True if the weights are packed into panels, now or on first use.
    pub(super) fn in_panels(&self) -> bool {
        matches!(self.form, Form::PackedWeight(_))
    }

    /// The convolution of `x` including the epilogue; `None` unless `x` is an f32 CPU tensor, and for products of few
    /// rows.
    pub(super) fn run(
        &self,
        f: &Frame<'_>,
        x: &Array,
        bias: Option<&[f32]>,
        placed: &Placed,
        epilogue: &EpilogueSpec,
    ) -> Result<Option<Tensor>, OpError> {
        let (x_of, t) = (x, x.tensor());
        if t.dtype() != DType::F32 || !t.device().is_cpu() {
            return Ok(None);
        }
        let images = t.dims()[0];
        let windows = placed.windows(t, &self.kernel);
        let shape = [&[images, self.outputs], placed.out.as_slice()].concat();
        let count = check_size(&shape)?;
        if let Form::PackedWeight(panels) = &self.form
            && self.kernel.iter().all(|&k| k == 1)
            && !panels.is_worthwhile(count / self.outputs, placed.out.iter().filter(|&&n| n > 1).count() > 1)
        {
            return Ok(None);
        }
        let taps = self.kernel.iter().product::<usize>();
        budget::products(&[count, taps, t.dims()[1] / self.groups])?;
        budget::claim_of::<f32>(count)?;
        let _scratch = budget::lent(self.scratch(&windows, images, t.dims()[1]))?;
        let order = channels_last(t.rank());
        let residual = epilogue.residual(f, &shape, &order)?;
        let last = t.permute(order)?;
        let winograd = self.winograd(&windows, images, t.dims()[1])?;
        let packed = match &self.form {
            Form::PackedWeight(panels) if winograd.is_none() => Some(panels.packed()?),
            _ => None,
        };
        let run = |x: &[f32]| match (&self.form, packed) {
            (Form::Depthwise(weights), _) => {
                epilogue.with(bias, residual.as_ref(), |epilogue| depthwise(&windows, x, images, weights, epilogue))
            }
            (_, Some(packed)) => {
                epilogue.with(bias, residual.as_ref(), |epilogue| conv_packed(&windows, x, images, packed, epilogue))
            }
            (Form::Stored(weight), _) => weight.matrix().map(|weight| {
                let mut y = zeros(count);
                conv(&windows, x, images, Product { weight, bias, out: &mut y });
                y
            }),
            (Form::PackedWeight(_), None) => winograd.and_then(|winograd| {
                epilogue.with(bias, residual.as_ref(), |epilogue| winograd.conv(&windows, x, images, epilogue))
            }),
        };
        let Some(y) = layout::with_rows(&last, run)?.flatten() else { return Ok(None) };
        let y = placed.result_of(y, images, self.outputs, t.device())?;
        // The kernel for stored weights has no epilogue.
        match self.form {
            Form::Stored(_) => Ok(Some(epilogue.apply(f, x_of.with(y))?.into_tensor())),
            _ => Ok(Some(y)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn conv_pads_with_zeros_and_steps_between_taps() {
        let weight = "weight = tensor<fp32, [1, 1, 2]>([[[1, 10]]])";
        let same = format!(
            "tensor<fp32, [1, 1, 3]> y = conv(x = x, {weight}, pad_type = string(\"custom\"), pad = tensor<int32, [2]>([1, 0]));"
        );
        near(&of(&same, &[1, 1, 3], &[1.0, 2.0, 3.0]), &[10.0, 21.0, 32.0]);
        let wide = format!("tensor<fp32, [1, 1, 1]> y = conv(x = x, {weight}, dilations = tensor<int32, [1]>([2]));");
        near(&of(&wide, &[1, 1, 3], &[1.0, 2.0, 3.0]), &[31.0]);
    }
}
