//! Pointwise convolutions as products.

use candle_core::Tensor;

use super::{Window, channels_last, channels_second, check_shapes};
use crate::array::Array;
use crate::build::one;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::ops::epilogue::EpilogueSpec;
use crate::ops::linear::{Bias, product, together};
use crate::planned::RowResults;
use crate::value::Value;
use crate::weight::Weight;

/// Pointwise convolutions of a single position in several predictions, as products whose weight is read once.
pub(super) fn points_together(
    frames: &[Frame<'_>],
    (x, weight): (Slot, Slot),
    bias: &Bias,
    window: &Window,
    groups: usize,
    epilogue: &EpilogueSpec,
) -> Result<RowResults, OpError> {
    let Some(f) = frames.first() else { return Ok(None) };
    let Value::Weight(w) = f.value(weight)? else { return Ok(None) };
    let mut xs = Vec::with_capacity(frames.len());
    for f in frames {
        let x = f.array(x)?;
        check_shapes(x.shape(), w.shape(), groups)?;
        xs.push(x.with(x.tensor().permute(channels_last(x.rank()))?));
    }
    let input = f.array(x)?.shape()[2..].to_vec();
    let placed = window.place(&input, &w.shape()[2..], false)?;
    let unpadded = placed.before.iter().chain(&placed.after).all(|&p| p == 0);
    let point = [&input, &w.shape()[2..]].into_iter().flatten().chain(&placed.strides).all(|&n| n == 1);
    if groups != 1 || !point || !unpadded {
        return Ok(None);
    }
    let bias = bias.get(f, w.shape()[0])?;
    let Some(results) = together::products(&xs, &[(w, bias.as_deref())])? else { return Ok(None) };
    let mut all = Vec::with_capacity(frames.len());
    for ((f, x), y) in frames.iter().zip(&xs).zip(results.into_iter().flatten()) {
        let y = y.permute(channels_second(x.rank()))?;
        all.push(one(epilogue.apply(f, x.with(y))?)?);
    }
    Ok(Some(all))
}

/// Pointwise convolution: channels last, one product, channels back; no copy for a single position or if the memory
/// order already fits.
pub(super) fn pointwise(x: &Array, weight: &Weight, bias: Option<&[f32]>) -> Result<Tensor, OpError> {
    let rank = x.rank();
    let rows = x.with(x.tensor().permute(channels_last(rank))?);
    let y = product(&rows, weight, bias, rows.tensor().device())?;
    Ok(y.permute(channels_second(rank))?)
}
