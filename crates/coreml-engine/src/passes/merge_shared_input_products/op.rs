//! `engine.products`: several products of one input with constant weights.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::matmul::matmul_t_many;
use coreml_kernels::matvec::Product;

use crate::array::Array;
use crate::batch;
use crate::budget;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::layout;
use crate::memory_order::with_f32s;
use crate::op::{OpSpec, since::*};
use crate::ops::conv::{channels_last, channels_second};
use crate::ops::epilogue::EpilogueSpec;
use crate::ops::linear::{copies, product, spread, together};
use crate::ops::packed_weight::PackedWeight;
use crate::planned::Run;
use crate::recycle::recycle_temp;
use crate::shape::check_size;
use crate::value::Value;
use crate::weight::Weight;

pub(super) const PRODUCTS: OpSpec = OpSpec::new("engine.products", IOS15, products).batch(|dim, op| {
    let x = batch::factor(dim, op)?;
    // Merged convolutions are pointwise.
    let channels = if dim.graph.flag(op, "channels_first", false) == Some(true) { 1 } else { x.shape.len() - 1 };
    batch::stays(x.beside(&[channels])?)
});

/// A weight `[outputs, inputs, 1…]` with its bias.
struct Layer {
    weight: Arc<Weight>,
    bias: Option<Vec<f32>>,
    outputs: usize,
    panels: Option<PackedWeight>,
}

impl Layer {
    fn new(b: &OpBuilder<'_>, index: i64) -> Result<Self, OpError> {
        let constant = |slot: Slot| b.constant(slot).ok_or_else(|| OpError::data("a weight that is not constant"));
        let weight = match constant(b.slot(&format!("weight_{index}"))?)? {
            Value::Weight(w) => w.clone(),
            other => {
                let array = other.array("weight", b.device())?;
                Arc::new(Weight::from_array(&array)?)
            }
        };
        let outputs = weight.shape().first().copied().unwrap_or(0);
        let bias = match b.slot_opt(&format!("bias_{index}"))? {
            None => None,
            Some(slot) => Some(spread(constant(slot)?.array("bias", b.device())?.to_f32s()?, outputs)?),
        };
        let panels = PackedWeight::new(&weight, 1, b.device());
        Ok(Self { weight, bias, outputs, panels })
    }

    fn inputs(&self) -> usize {
        self.weight.shape().iter().skip(1).product()
    }
}

/// `engine.products(x, weight_0, bias_0?, weight_1, …, count, channels_first)`: the result of `linear`, or of a
/// pointwise `conv` (`channels_first`), for each weight.
fn products(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (count, channels_first) = (b.attr::<i64>("count")?, b.attr::<bool>("channels_first")?);
    let layers = Arc::new((0..count).map(|i| Layer::new(b, i)).collect::<Result<Vec<_>, _>>()?);
    let epilogue = EpilogueSpec::new(b)?;
    let shared = layers.clone();
    b.rows(move |frames| {
        let row = |f: &Frame<'_>| {
            let x = f.array(x)?;
            match channels_first {
                true if x.rank() < 3 => Err(OpError::shape(format!("a product of {:?}", x.shape()))),
                true => Ok(x.with(x.tensor().permute(channels_last(x.rank()))?)),
                false => Ok(x),
            }
        };
        let xs = frames.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let weights: Vec<_> = shared.iter().map(|l| (&*l.weight, l.bias.as_deref())).collect();
        let Some(results) = together::products(&xs, &weights)? else { return Ok(None) };
        let back = |x: &Array, y: Tensor| -> Result<Value, OpError> {
            let y = if channels_first { y.permute(channels_second(y.rank()))? } else { y };
            Ok(x.with(y).into())
        };
        let row = |(x, ys): (&Array, Vec<Tensor>)| ys.into_iter().map(|y| back(x, y)).collect::<Result<Vec<_>, _>>();
        xs.iter().zip(results).map(row).collect::<Result<_, _>>().map(Some)
    });
    b.run(move |f| {
        let x = f.array(x)?;
        let rank = x.rank();
        if rank == 0 || (channels_first && rank < 3) {
            return Err(OpError::shape(format!("a product of {:?}", x.shape())));
        }
        let rows = if channels_first { x.tensor().permute(channels_last(rank))? } else { x.tensor().clone() };
        let rows = layout::contiguous(&rows)?;
        let packed = |l: &Layer| match &l.panels {
            Some(panels) => panels.product(f, &rows, l.bias.as_deref(), &epilogue),
            None => Ok(None),
        };
        let results = layers.iter().map(packed).collect::<Result<Option<Vec<_>>, _>>()?;
        let results = match results {
            Some(results) => results,
            None => all(&x.with(rows.clone()), &layers, f.device())?,
        };
        recycle_temp(&rows, x.tensor());
        let back = |y: Tensor| if channels_first { y.permute(channels_second(rank)) } else { Ok(y) };
        results.into_iter().map(|y| Ok(x.with(back(y)?).into())).collect()
    })
}

/// `x · Wᵀ + bias` for each layer; `x` is contiguous with the inputs in its last dimension.
fn all(x: &Array, layers: &[Layer], device: &Device) -> Result<Vec<Tensor>, OpError> {
    let (array, precision, x) = (x, x.precision(), x.tensor());
    let inputs = x.dims().last().copied().unwrap_or(1);
    if let Some(other) = layers.iter().find(|l| l.inputs() != inputs) {
        return Err(OpError::shape(format!("{:?} times a weight of shape {:?}", x.dims(), other.weight.shape())));
    }
    let matrices: Option<Vec<_>> = layers.iter().map(|l| l.weight.matrix()).collect();
    let (Some(matrices), true) = (matrices, device.is_cpu()) else {
        return layers.iter().map(|l| product(array, &l.weight, l.bias.as_deref(), device)).collect();
    };
    let outer = &x.dims()[..x.rank() - 1];
    let m: usize = outer.iter().product();
    let shape = |outputs: usize| [outer, &[outputs]].concat();
    let sizes = layers.iter().map(|l| {
        let count = check_size(&shape(l.outputs))?;
        budget::products(&[count, inputs])?;
        budget::claim_of::<f32>(count)?;
        Ok::<_, OpError>(count)
    });
    let _rows = budget::lent(copies(m, inputs))?;
    let mut results: Vec<Vec<f32>> = sizes.map(|n| Ok(zeros(n?))).collect::<Result<_, OpError>>()?;
    let work = matrices.iter().zip(layers).zip(&mut results);
    let run = |x: &[f32]| {
        let mut products: Vec<Product<'_, '_>> =
            work.map(|((weight, l), out)| Product { weight: *weight, bias: l.bias.as_deref(), out }).collect();
        matmul_t_many(&mut products, x, m, precision);
    };
    with_f32s(x, run).ok_or_else(|| OpError::data("the input of a product is not f32"))?;
    layers.iter().zip(results).map(|(l, y)| Ok(Tensor::from_vec(y, shape(l.outputs), device)?)).collect()
}
