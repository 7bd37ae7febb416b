//! Dense weights packed once into panels for products with many rows.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use coreml_format::dtype::DataType;
use coreml_kernels::conv::Winograd;
use coreml_kernels::packed::{PANEL, Packed, product};

use super::epilogue::EpilogueSpec;
use crate::budget::{claim, claim_of, lent, products, temporary};
use crate::error::OpError;
use crate::layout;
use crate::weight::Weight;

/// Minimum number of input rows at which panels beat stored weights.
const MIN_ROWS: usize = 8;

/// Maximum number of outputs of groups merged into one, with zeros between groups: half a panel, since fewer outputs
/// cost as much. An infinity or NaN spreads to all merged groups.
const MAX_JOINED_OUTPUTS: usize = PANEL / 2;

/// A weight `[outputs, inputs of a group, taps…]` and its panels, packed on first use.
pub(crate) struct PackedWeight {
    weight: Arc<Weight>,
    groups: usize,
    packed: OnceLock<Packed>,
}

impl PackedWeight {
    /// `None` for weights that are not dense floats, as they are or with a factor for each row, and for devices other than
    /// the CPU.
    pub(crate) fn new(weight: &Arc<Weight>, groups: usize, device: &Device) -> Option<Self> {
        let outputs = weight.shape().first().copied().unwrap_or(0);
        let fits = device.is_cpu() && weight.is_dense_float() && !weight.shape().contains(&0);
        (fits && weight.shape().len() > 1 && outputs.is_multiple_of(groups)).then(|| Self {
            weight: weight.clone(),
            groups,
            packed: OnceLock::new(),
        })
    }

    /// True if panels are worth their memory for a product with this many rows. They double fp16 weights in size, so
    /// those are packed only for `images`, not for the matrices of language models.
    pub(super) fn is_worthwhile(&self, rows: usize, images: bool) -> bool {
        rows >= MIN_ROWS && (images || self.weight.dtype() == DataType::F32)
    }

    /// Returns the panels.
    ///
    /// # Errors
    /// If the weight cannot be read or allocation of the panels fails.
    pub(super) fn packed(&self) -> Result<&Packed, OpError> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let (outputs, cols) = self.sizes();
        let own = outputs / self.groups;
        let fits = |&n: &usize| self.groups.is_multiple_of(n) && n * own <= MAX_JOINED_OUTPUTS;
        let joined = (1..=self.groups.min(MAX_JOINED_OUTPUTS)).rev().find(fits).unwrap_or(1);
        let (groups, channels) = (self.groups / joined, self.weight.shape()[1]);
        let panels = groups.saturating_mul((outputs / groups).next_multiple_of(PANEL)).saturating_mul(cols * joined);
        let bytes = panels.saturating_mul(size_of::<f32>());
        let packed = temporary(bytes, || {
            let mut row = self.rows()?;
            claim(bytes)?;
            let mut weights = vec![0f32; cols];
            Ok(Packed::new(groups, outputs / groups, cols * joined, |r, out| {
                row(r, &mut weights);
                out.fill(0.0);
                let first = r / own % joined * channels;
                for (out, tap) in out.chunks_exact_mut(channels * joined).zip(weights.chunks_exact(channels)) {
                    out[first..first + channels].copy_from_slice(tap);
                }
            }))
        })?;
        Ok(self.packed.get_or_init(|| packed))
    }

    /// Winograd transform of the weights, of 3 × 3 taps and one group.
    ///
    /// # Errors
    /// If the weight cannot be read.
    pub(super) fn winograd(&self) -> Result<Winograd, OpError> {
        let (outputs, cols) = self.sizes();
        // Sixteen points for nine taps, in output order and then in panels.
        let of = |outputs: usize| (cols / 9 * 16 * size_of::<f32>()).saturating_mul(outputs);
        let panels = of(outputs.next_multiple_of(PANEL));
        temporary(panels, || {
            let mut row = self.rows()?;
            claim(panels.saturating_add(of(outputs)))?;
            Ok(Winograd::new(outputs, cols / 9, &mut row))
        })
    }

    /// Number of outputs, and weights per output.
    fn sizes(&self) -> (usize, usize) {
        (self.weight.shape()[0], self.weight.shape()[1..].iter().product())
    }

    /// Writer of the weights of one output as `[taps, channels]`.
    fn rows(&self) -> Result<impl FnMut(usize, &mut [f32]), OpError> {
        let values = self.weight.expand(&Device::Cpu)?.to_f32s()?;
        let (channels, (_, cols)) = (self.weight.shape()[1], self.sizes());
        let taps = cols / channels;
        // Stored as `[channels, taps]`.
        Ok(move |r: usize, out: &mut [f32]| {
            let row = &values[r * cols..][..cols];
            for (tap, out) in out.chunks_exact_mut(channels).enumerate() {
                out.iter_mut().zip(row[tap..].iter().step_by(taps)).for_each(|(o, &w)| *o = w);
            }
        })
    }

    /// `x[…, inputs] · Wᵀ` including the epilogue; `None` if panels are not worthwhile or `x` is not an f32 CPU tensor.
    pub(crate) fn product(
        &self,
        f: &crate::frame::Frame<'_>,
        x: &Tensor,
        bias: Option<&[f32]>,
        epilogue: &EpilogueSpec,
    ) -> Result<Option<Tensor>, OpError> {
        let mut shape = x.dims().to_vec();
        let inner = shape.pop().unwrap_or(0);
        let rows: usize = shape.iter().product();
        let inputs: usize = self.weight.shape()[1..].iter().product();
        if inner != inputs || !self.is_worthwhile(rows, false) {
            return Ok(None);
        }
        let packed = self.packed()?;
        shape.push(packed.outputs());
        let count = crate::shape::check_size(&shape)?;
        products(&[count, inner])?;
        claim_of::<f32>(count)?;
        let _starts = lent(rows.saturating_mul(4 * size_of::<usize>()))?;
        let order: Vec<usize> = (0..shape.len()).collect();
        let residual = epilogue.residual(f, &shape, &order)?;
        let run = |x: &[f32]| epilogue.with(bias, residual.as_ref(), |epilogue| product(x, rows, packed, epilogue));
        match layout::with_rows(x, run)?.flatten() {
            Some(y) => Ok(Some(Tensor::from_vec(y, shape, x.device())?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn many_rows_are_what_each_row_is_alone() {
        let body = |rows: usize| {
            format!(
                "tensor<fp32, [{rows}, 2]> y = linear(x = x, weight = tensor<fp32, [2, 3]>([[1, 2, 3], [-4, 5, 0.5]]));"
            )
        };
        let x: Vec<f32> = (0..48).map(|i| i as f32 * 0.25 - 3.0).collect();
        let alone: Vec<f32> = x.chunks(3).flat_map(|row| of(&body(1), &[1, 3], row)).collect();
        near(&of(&body(16), &[16, 3], &x), &alone);
    }
}
