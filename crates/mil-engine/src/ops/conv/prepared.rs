//! Convolutions with constant weights on the CPU: weights in the order in which channels-last kernels take them.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mil_kernels::conv::{PatchOrder, conv, depthwise};
use mil_kernels::matvec::Product;

use super::{Placed, channels_last};
use crate::build::check_size;
use crate::error::OpError;
use crate::layout;
use crate::value::{Array, with_f32s};
use crate::weight::Weight;

/// Weights that were put in order once.
pub(super) struct Prepared {
    kernel: Vec<usize>,
    outputs: usize,
    form: Form,
}

enum Form {
    /// One matrix for all channels, `[outputs, …]`.
    Dense { weight: Arc<Weight>, order: PatchOrder },
    /// `[taps, channels]`.
    Depthwise(Vec<f32>),
}

/// `[A, B, taps]` to `[A, taps, B]`.
fn taps_first(values: &[f32], b: usize, taps: usize) -> Vec<f32> {
    let mut out = vec![0f32; values.len()];
    for (from, to) in values.chunks_exact(b * taps).zip(out.chunks_exact_mut(b * taps)) {
        for (i, &v) in from.iter().enumerate() {
            to[i % taps * b + i / taps] = v;
        }
    }
    out
}

impl Prepared {
    /// None for weights that the kernels do not take: other groups, no elements, a device.
    pub(super) fn new(weight: &Arc<Weight>, groups: usize, device: &Device) -> Result<Option<Self>, OpError> {
        let shape = weight.shape();
        if !device.is_cpu() || !(3..=5).contains(&shape.len()) || shape.contains(&0) {
            return Ok(None);
        }
        let (outputs, channels) = (shape[0], shape[1]);
        let taps: usize = shape[2..].iter().product();
        let kernel = shape[2..].to_vec();
        let values = || weight.expand(device)?.to_f32s();
        let form = if groups == 1 {
            let (weight, order) = if taps == 1 {
                (weight.clone(), PatchOrder::TapsFirst)
            } else if weight.raw().is_none() {
                // Compressed weights stay as they are.
                (weight.clone(), PatchOrder::ChannelsFirst)
            } else {
                let values = taps_first(&values()?, channels, taps);
                let weight = Weight::from_f32s(&values, weight.dtype(), shape.to_vec());
                (Arc::new(weight), PatchOrder::TapsFirst)
            };
            if weight.matrix().is_none() {
                return Ok(None);
            }
            Form::Dense { weight, order }
        } else if groups == outputs && channels == 1 {
            Form::Depthwise(taps_first(&values()?, outputs, taps))
        } else {
            return Ok(None);
        };
        Ok(Some(Self { kernel, outputs, form }))
    }

    /// The convolution of `x`; none when it is no f32 tensor on the CPU.
    pub(super) fn run(&self, x: &Array, bias: Option<&[f32]>, placed: &Placed) -> Result<Option<Tensor>, OpError> {
        let t = x.tensor();
        if t.dtype() != DType::F32 || !t.device().is_cpu() {
            return Ok(None);
        }
        let images = t.dims()[0];
        let windows = placed.windows(t, &self.kernel);
        let mut y = vec![0f32; check_size(&[&[images, self.outputs], placed.out.as_slice()].concat())?];
        let x = layout::contiguous(&t.permute(channels_last(t.rank()))?)?;
        let done = with_f32s(&x, |x| match &self.form {
            Form::Dense { weight, order } => weight.matrix().map(|weight| {
                conv(&windows, *order, x, images, Product { weight, bias, out: &mut y });
            }),
            Form::Depthwise(weights) => {
                depthwise(&windows, x, images, weights, bias, &mut y);
                Some(())
            }
        });
        if done.flatten().is_none() {
            return Ok(None);
        }
        placed.result_of(y, images, self.outputs, t.device()).map(Some)
    }
}
