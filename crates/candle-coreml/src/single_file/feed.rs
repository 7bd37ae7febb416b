//! The tensors that a prediction takes.

use candle_core::{Device, Tensor};
use coreml_format::dtype::DataType;

use super::extent::Extent;
use super::interface::{Input, Interface, Role};
use crate::error::Result;

/// The tokens of one prediction: `ids`, padding included, at positions from `start` on.
pub(super) struct Run<'r> {
    pub(super) ids: &'r [u32],
    /// How many of them are no padding.
    pub(super) real: usize,
    pub(super) start: usize,
}

impl Run<'_> {
    /// Rows of the caches after the prediction.
    pub(super) fn end(&self) -> usize {
        self.start + self.ids.len()
    }
}

/// Width of a mask that is to cover `end` tokens. The width itself may say where the caches are written, so it is exact
/// where it can be.
fn columns(extent: &Extent, end: usize) -> usize {
    extent.above(end).unwrap_or(end)
}

fn floats(data: Vec<f32>, shape: Vec<usize>, dtype: DataType) -> Result<Tensor> {
    let tensor = Tensor::from_vec(data, shape, &Device::Cpu)?;
    Ok(if dtype == DataType::F16 { tensor.to_dtype(candle_core::DType::F16)? } else { tensor })
}

/// `[1, …, 1, last…]` of the rank that an input has.
fn of_rank(input: &Input, last: &[usize]) -> Vec<usize> {
    let mut shape = vec![1; input.extents.len().saturating_sub(last.len())];
    shape.extend(last);
    shape
}

/// The tensor of an input; none for caches.
pub(super) fn tensor(interface: &Interface, input: &Input, run: &Run<'_>) -> Result<Option<Tensor>> {
    let count = run.ids.len();
    let integers = |data: Vec<i64>| {
        let shape = of_rank(input, &[data.len()]);
        Ok(Some(Tensor::from_vec(data, shape, &Device::Cpu)?))
    };
    let width = || input.extents.last().map_or(run.end(), |e| columns(e, run.end()));
    match &input.role {
        Role::Tokens => integers(run.ids.iter().map(|&id| i64::from(id)).collect()),
        Role::Positions => integers((run.start..run.end()).map(|p| p as i64).collect()),
        Role::Start => integers(vec![run.start as i64]),
        Role::Present => {
            let there = run.start + run.real;
            integers((0..width()).map(|i| i64::from(i < there)).collect())
        }
        Role::Scores => {
            let width = width();
            let mut data = vec![f32::NEG_INFINITY; count * width];
            for (i, row) in data.chunks_exact_mut(width).enumerate() {
                row[..(run.start + i + 1).min(width)].fill(0.0);
            }
            floats(data, of_rank(input, &[count, width]), input.dtype).map(Some)
        }
        Role::Update => {
            let rows = interface.context;
            let mut data = vec![0.0; rows * count];
            for i in 0..count.min(rows.saturating_sub(run.start)) {
                data[(run.start + i) * count + i] = 1.0;
            }
            floats(data, of_rank(input, &[rows, count]), input.dtype).map(Some)
        }
        Role::Cache { .. } => Ok(None),
    }
}
