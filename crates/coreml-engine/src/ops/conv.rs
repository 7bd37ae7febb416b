//! Convolutions in one, two and three dimensions.
//!
//! Semantics follow the reference documentation of coremltools' `conv` chapter. A pointwise convolution is a matrix
//! product over positions and reads its weight in stored form; others gather patches (im2col) and multiply.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::conv::Windows;

use super::epilogue::EpilogueSpec;
use super::linear::{Bias, bias_of};
use crate::batch;
use crate::budget::{Counted, claim_of, lent, products};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::Slot;
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::{MAX_ELEMENTS, check_size};
use crate::value::Value;
use crate::weight::Weight;

mod pointwise;
mod prepared;
mod transposed;

use pointwise::{points_together, pointwise};
use prepared::Prepared;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("conv", IOS15_17, conv).batch(batch::conv).kernel("product on stored weights"),
    OpSpec::new("conv_quantized", IOS15, conv_quantized),
    OpSpec::new("conv_transpose", IOS15_17, transposed::conv_transpose).kernel("one convolution per phase"),
];

/// Maximum extent of a window, including dilation gaps.
const FARTHEST: usize = 1 << 30;

/// Padding mode of a window operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PadType {
    Valid,
    Same,
    SameLower,
    Custom,
}

/// Strides, dilations and padding of a window operation.
#[derive(Debug, Clone)]
pub(super) struct Window {
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pad_type: PadType,
    pad: Vec<i64>,
}

/// A window placed over given extents.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Padding before the first element, by dimension.
    pub before: Vec<usize>,
    pub after: Vec<usize>,
    pub out: Vec<usize>,
}

fn sizes(values: &[i64], least: i64, what: &str) -> Result<Vec<usize>, OpError> {
    values
        .iter()
        .map(|&v| {
            usize::try_from(v).ok().filter(|_| v >= least).ok_or_else(|| OpError::shape(format!("`{what}` holds {v}")))
        })
        .collect()
}

impl Placed {
    /// The same windows for channels-last kernels, over an input `[N, C, spatial…]`.
    pub(super) fn windows(&self, x: &Tensor, kernel: &[usize]) -> Windows {
        Windows {
            input: three(&x.dims()[2..], 1),
            kernel: three(kernel, 1),
            strides: three(&self.strides, 1),
            dilations: three(&self.dilations, 1),
            before: three(&self.before, 0),
            out: three(&self.out, 1),
        }
    }

    /// Number of taps of a kernel along a dimension, at most the padded extent.
    pub(super) fn taps(&self, d: usize, kernel: &[usize], input: &[usize]) -> usize {
        kernel[d].min(input[d].saturating_add(self.before[d]).saturating_add(self.after[d])).max(1)
    }

    /// Reshapes a result `[images, out…, channels]` to `[images, channels, out…]`.
    pub(super) fn result_of(
        &self,
        data: Vec<f32>,
        images: usize,
        channels: usize,
        device: &Device,
    ) -> Result<Tensor, OpError> {
        let mut shape = vec![images];
        shape.extend(&self.out);
        shape.push(channels);
        let rank = shape.len();
        Ok(Tensor::from_vec(data, shape, device)?.permute(channels_second(rank))?)
    }
}

/// Pads up to three spatial extents to three.
fn three(values: &[usize], fill: usize) -> [usize; 3] {
    let mut out = [fill; 3];
    out[3 - values.len()..].copy_from_slice(values);
    out
}

/// Permutation from `[N, C, …]` to `[N, …, C]`.
pub(crate) fn channels_last(rank: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    order[1..].rotate_left(1);
    order
}

/// Permutation from `[N, …, C]` to `[N, C, …]`.
pub(crate) fn channels_second(rank: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    order[1..].rotate_right(1);
    order
}

const PAD_TYPES: &[(&str, PadType)] = &[
    ("valid", PadType::Valid),
    ("same", PadType::Same),
    ("same_lower", PadType::SameLower),
    ("custom", PadType::Custom),
];

impl Window {
    /// The parameters `strides?`, `dilations?`, `pad_type = "valid"` and `pad?` of a convolution.
    pub(super) fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        Ok(Self { dilations: b.attr_or("dilations", Vec::new())?, ..Self::without_dilations(b)? })
    }

    /// The same for pooling, which has no dilations.
    pub(super) fn without_dilations(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        Ok(Self {
            strides: b.attr_or("strides", Vec::new())?,
            dilations: Vec::new(),
            pad_type: b.choice("pad_type", PAD_TYPES)?,
            pad: b.attr_or("pad", Vec::new())?,
        })
    }

    /// Explicit padding pairs for `rank` spatial dimensions; zeros if omitted.
    fn custom(&self, rank: usize) -> Result<Vec<usize>, OpError> {
        match self.pad.len() {
            _ if self.pad_type != PadType::Custom => Ok(Vec::new()),
            0 => Ok(vec![0; 2 * rank]),
            n if n == 2 * rank => sizes(&self.pad, 0, "pad"),
            _ => Err(OpError::shape(format!("`pad` {:?} for {rank} spatial dimensions", self.pad))),
        }
    }

    /// True if strides and dilations are all one.
    fn is_dense(&self) -> bool {
        self.strides.iter().chain(&self.dilations).all(|&n| n == 1)
    }

    /// Strides and dilations for `rank` spatial dimensions.
    fn steps(&self, rank: usize) -> Result<(Vec<usize>, Vec<usize>), OpError> {
        let fill = |v: &[i64], what: &str| {
            let v = if v.is_empty() { vec![1; rank] } else { v.to_vec() };
            if v.len() != rank {
                return Err(OpError::shape(format!("`{what}` {v:?} for {rank} spatial dimensions")));
            }
            sizes(&v, 1, what)
        };
        Ok((fill(&self.strides, "strides")?, fill(&self.dilations, "dilations")?))
    }

    /// Places windows of extents `kernel` over `input`. With `ceil`, a last window may extend past the end, counted as
    /// coremltools does: it is dropped if it covers only padding, unless there is no padding.
    pub(super) fn place(&self, input: &[usize], kernel: &[usize], ceil: bool) -> Result<Placed, OpError> {
        let rank = input.len();
        let (strides, dilations) = self.steps(rank)?;
        let (mut before, mut after, mut out) = (vec![0; rank], vec![0; rank], vec![0; rank]);
        let custom = self.custom(rank)?;
        if ceil && self.pad_type == PadType::Same {
            return Err(OpError::Unsupported("`ceil_mode` with padding of type same".to_owned()));
        }
        for d in 0..rank {
            let span = kernel[d]
                .checked_sub(1)
                .and_then(|k| k.checked_mul(dilations[d]))
                .and_then(|k| k.checked_add(1))
                .ok_or_else(|| OpError::shape(format!("a kernel of {kernel:?}")))?;
            match self.pad_type {
                PadType::Valid => {}
                PadType::Same | PadType::SameLower => {
                    // At most the extent, so this cannot overflow.
                    let last = input[d].div_ceil(strides[d]).saturating_sub(1) * strides[d];
                    let total = last.saturating_add(span).saturating_sub(input[d]);
                    let (less, more) = (total / 2, total - total / 2);
                    (before[d], after[d]) = if self.pad_type == PadType::Same { (less, more) } else { (more, less) };
                }
                PadType::Custom => (before[d], after[d]) = (custom[2 * d], custom[2 * d + 1]),
            }
            if ceil && self.pad_type == PadType::Custom && before[d] != after[d] {
                return Err(OpError::Unsupported(format!("`ceil_mode` with the uneven padding {custom:?}")));
            }
            let padded = input[d].checked_add(before[d]).and_then(|n| n.checked_add(after[d]));
            // Beyond this, offsets of taps could overflow in an image of many channels.
            let most = MAX_ELEMENTS.max(span.min(FARTHEST));
            // A partial step past the end counts, too.
            let over = if ceil { strides[d] - 1 } else { 0 };
            let room = padded.filter(|&n| n <= most).and_then(|n| n.saturating_add(over).checked_sub(span));
            let room = room.ok_or_else(|| {
                OpError::shape(format!("a kernel of {kernel:?} does not fit extents {input:?} with padding"))
            })?;
            let mut count = room / strides[d] + 1;
            // Half of the padding is assumed before the input.
            let (total, last) = (before[d].saturating_add(after[d]), (count - 1).saturating_mul(strides[d]));
            if ceil && total > 0 && last.saturating_mul(2) >= input[d].saturating_mul(2).saturating_add(total) {
                count -= 1;
            }
            out[d] = count;
        }
        check_size(&out)?;
        Ok(Placed { strides, dilations, before, after, out })
    }
}

/// Calls `f` for every index of a shape, in row-major order.
pub(super) fn each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0usize; shape.len()];
    loop {
        f(&index);
        let mut d = shape.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            if index[d] < shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
}

/// im2col of `channels` planes: `[channels · kernel, positions]`, zero outside.
fn patches(x: &[f32], channels: usize, input: &[usize], kernel: &[usize], p: &Placed) -> Result<Vec<f32>, OpError> {
    let plane: usize = input.iter().product();
    let positions: usize = p.out.iter().product();
    let taps: usize = kernel.iter().product();
    let mut out = zeros(check_size(&[channels, taps, positions])?);
    let rank = input.len();
    let inner_out = p.out[rank - 1];
    let inner_in = input[rank - 1];
    let outer = &p.out[..rank - 1];
    let mut row = 0;
    for c in 0..channels {
        let plane = &x[c * plane..(c + 1) * plane];
        each_index(kernel, |tap| {
            let target = &mut out[row * positions..(row + 1) * positions];
            row += 1;
            let mut at = 0;
            each_index(outer, |o| {
                let mut base = 0;
                let mut inside = true;
                for d in 0..rank - 1 {
                    let i = (o[d] * p.strides[d] + tap[d] * p.dilations[d]).wrapping_sub(p.before[d]);
                    inside &= i < input[d];
                    base = base * input[d] + i.min(input[d].saturating_sub(1));
                }
                if inside {
                    let line = &plane[base * inner_in..(base + 1) * inner_in];
                    let shift = tap[rank - 1] * p.dilations[rank - 1];
                    let (step, before) = (p.strides[rank - 1], p.before[rank - 1]);
                    for (i, t) in target[at..at + inner_out].iter_mut().enumerate() {
                        if let Some(&v) = line.get((i * step + shift).wrapping_sub(before)) {
                            *t = v;
                        }
                    }
                }
                at += inner_out;
            });
        });
    }
    Ok(out)
}

/// Checks an input `[N, C, spatial…]` against a weight `[O, C / groups, kernel…]`.
fn check_shapes(x: &[usize], w: &[usize], groups: usize) -> Result<(), OpError> {
    let fits = x.len() == w.len()
        && (3..=5).contains(&x.len())
        && groups > 0
        && w[0].is_multiple_of(groups)
        && w[1].checked_mul(groups) == Some(x[1]);
    if fits { Ok(()) } else { Err(OpError::shape(format!("conv of {x:?} with weight {w:?} in {groups} groups"))) }
}

fn groups_of(b: &OpBuilder<'_>) -> Result<usize, OpError> {
    let groups = b.attr_or("groups", 1i64)?;
    usize::try_from(groups).ok().filter(|&g| g > 0).ok_or_else(|| OpError::shape(format!("{groups} groups")))
}

/// The weight, if it is known at load time.
fn constant_weight(b: &OpBuilder<'_>, slot: Slot) -> Result<Option<Arc<Weight>>, OpError> {
    Ok(match b.constant(slot) {
        Some(Value::Weight(w)) => Some(w.clone()),
        Some(Value::Array(w)) if w.dtype().is_float() => Some(Arc::new(Weight::from_array(w)?)),
        _ => None,
    })
}

/// `conv(x, weight, bias?, strides?, pad_type = "valid", pad?, dilations?, groups = 1)`; `engine.conv` also accepts the
/// parameters of [`EpilogueSpec`].
pub(crate) fn conv(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, weight) = (b.slot("x")?, b.slot("weight")?);
    let shared = Arc::new((Bias::new(b)?, Window::new(b)?, EpilogueSpec::new(b)?));
    let groups = groups_of(b)?;
    let constant = constant_weight(b, weight)?;
    let parts = shared.clone();
    b.rows(move |frames| {
        let (bias, window, epilogue) = &*parts;
        points_together(frames, (x, weight), bias, window, groups, epilogue)
    });
    let window = &shared.1;
    let result = b.output_type(0).and_then(|ty| ty.tensor()).and_then(|ty| ty.fixed_shape());
    let prepared = match constant {
        Some(w) => Prepared::new(&w, groups, window, result.as_deref(), b.device())?,
        None => None,
    };
    b.run(move |f| {
        let (bias, window, epilogue) = &*shared;
        let x = f.array(x)?;
        let shape = match f.value(weight)? {
            Value::Weight(w) => w.shape().to_vec(),
            _ => f.array(weight)?.shape().to_vec(),
        };
        check_shapes(x.shape(), &shape, groups)?;
        let bias = bias.get(f, shape[0])?;
        let placed = window.place(&x.shape()[2..], &shape[2..], false)?;
        let point = shape[2..].iter().all(|&k| k == 1) && placed.strides.iter().all(|&s| s == 1);
        let unpadded = placed.before.iter().chain(&placed.after).all(|&p| p == 0);
        let product = point && unpadded && groups == 1;
        let stored = match f.value(weight)? {
            Value::Weight(w) if product => Some(w),
            _ => None,
        };
        // As a product, compressed weights are read in stored form.
        if let Some(weights) = prepared.as_ref().filter(|p| stored.is_none() || p.in_panels())
            && let Some(y) = weights.run(f, &x, bias.as_deref(), &placed, epilogue)?
        {
            return one(x.with(y));
        }
        let y = match stored {
            Some(w) => pointwise(&x, w, bias.as_deref())?,
            None => general(x.tensor(), f.array(weight)?.tensor(), bias.as_deref(), &placed, groups)?,
        };
        one(epilogue.apply(f, x.with(y))?)
    })
}

fn general(x: &Tensor, w: &Tensor, bias: Option<&[f32]>, p: &Placed, groups: usize) -> Result<Tensor, OpError> {
    let (n, channels) = (x.dims()[0], x.dims()[1]);
    let (out_channels, per_group) = (w.dims()[0], w.dims()[1]);
    let (input, kernel) = (x.dims()[2..].to_vec(), w.dims()[2..].to_vec());
    let positions: usize = p.out.iter().product();
    let mut shape = vec![n, out_channels];
    shape.extend(&p.out);
    let count = check_size(&shape)?;
    let plane: usize = input.iter().product();
    let taps: usize = kernel.iter().product();
    products(&[count, per_group, taps])?;
    let data = layout::to_f32s(x)?;
    // Patches and result of one group; concatenating all groups may copy, as may reshaping the weight.
    claim_of::<f32>(count.saturating_mul(2).saturating_add(w.elem_count()))?;
    let device = x.device();
    let w = w.reshape((groups, out_channels / groups, per_group * taps))?;
    let mut parts = Vec::with_capacity(n * groups);
    for image in 0..n {
        for g in 0..groups {
            let from = (image * channels + g * per_group) * plane;
            let _columns = lent(check_size(&[per_group, taps, positions])?.saturating_mul(size_of::<f32>()))?;
            let columns = patches(&data[from..from + per_group * plane], per_group, &input, &kernel, p)?;
            let columns = Tensor::from_vec(columns, (per_group * taps, positions), device)?;
            parts.push(w.get(g)?.matmul(&columns)?);
        }
    }
    let y = match parts.len() {
        0 => Tensor::zeros(shape.as_slice(), x.dtype(), device)?,
        _ => Tensor::cat(&parts, 0)?.reshape(shape.as_slice())?,
    };
    add_bias(&y, bias)
}

fn add_bias(y: &Tensor, bias: Option<&[f32]>) -> Result<Tensor, OpError> {
    let Some(bias) = bias else { return Ok(y.clone()) };
    let mut shape = vec![1; y.rank()];
    shape[1] = bias.len();
    y.counted_broadcast(&Tensor::new(bias, y.device())?.reshape(shape)?, Tensor::broadcast_add)
}

/// `conv_quantized`: `conv` with integer weights, `w = scale · q + bias` per output channel, or a lookup table.
fn conv_quantized(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, weight, bias) = (b.slot("x")?, b.slot("weight")?, b.slot_opt("bias")?);
    let (scale, shift) = (b.slot_opt("quant_scale")?, b.slot_opt("quant_bias")?);
    if b.required_choice("quantization_type", &[("linear", false), ("lut", true)])? {
        return Err(OpError::Unsupported("conv_quantized of type `lut`".to_owned()));
    }
    // Weights are stored in whole bytes regardless of their bit width.
    let bits = b.attr_or("nbits", 8i64)?;
    if !(1..=8).contains(&bits) {
        return Err(OpError::data(format!("weights of {bits} bits")));
    }
    let window = Window::new(b)?;
    let groups = groups_of(b)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let w = f.array(weight)?;
        check_shapes(x.shape(), w.shape(), groups)?;
        let column = |t: &Tensor| {
            let mut shape = vec![1; w.rank()];
            shape[0] = t.elem_count();
            t.reshape(shape)
        };
        let mut dense = w.tensor().counted_to_dtype(candle_core::DType::F32)?;
        if let Some(s) = scale {
            dense = dense.counted_broadcast(&column(f.array(s)?.tensor())?, Tensor::broadcast_mul)?;
        }
        if let Some(s) = shift {
            dense = dense.counted_broadcast(&column(f.array(s)?.tensor())?, Tensor::broadcast_add)?;
        }
        let bias = bias_of(f, bias, w.shape()[0])?;
        let placed = window.place(&x.shape()[2..], &w.shape()[2..], false)?;
        one(x.with(general(x.tensor(), &dense, bias.as_deref(), &placed, groups)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_reach_too_far_are_refused() {
        let place = |dilation: i64, pad: i64| {
            let (strides, dilations, pad) = (vec![i64::MAX], vec![dilation], vec![pad, pad]);
            Window { strides, dilations, pad_type: PadType::Custom, pad }.place(&[4], &[2], false)
        };
        // One window with no tap inside the input.
        assert!(place(20, 9).is_ok_and(|p| p.out == [1]));
        for (dilation, pad) in [(1 << 62, 1 << 61), (1 << 30, 1 << 29), (i64::MAX, i64::MAX / 2)] {
            assert!(matches!(place(dilation, pad), Err(OpError::Shape(_))), "{dilation} {pad}");
        }
    }
}
