//! Constants and blobs of one value.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::constant::{Fill, FillStatic, LoadConstant};
use coreml_format::model_types::neural_network::control_flow::{RangeDynamic, RangeStatic};

use coreml_format::program::Argument;

use super::build::{Blob, Extent, Network, float, of};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// `[C, H, W]` as `[1, 1, C, H, W]`.
pub(super) fn load(n: &mut Network, layer: &NeuralNetworkLayer, p: &LoadConstant) -> Lowered<()> {
    let [c, h, w] = *p.shape else { return n.refuse(format!("`shape` is {:?}", p.shape)) };
    // Scales, if there are several, are those of channels.
    let made = n.stored_floats("data", &p.data, &[c, h, w], c as usize)?;
    let shape = [Some(1)].into_iter().chain(made.shape.iter().copied()).collect();
    let y = n.op("expand_dims", vec![("x", of(&made)), ("axes", super::build::ints(&[0]))], shape);
    n.write(layer, vec![Blob { short: true, ..y }])
}

pub(super) fn load_nd(n: &mut Network, layer: &NeuralNetworkLayer, p: &LoadConstant) -> Lowered<()> {
    let rows = p.shape.first().map_or(0, |&d| usize::try_from(d).unwrap_or(0));
    let y = n.stored_floats("data", &p.data, &p.shape, rows)?;
    n.write(layer, vec![y])
}

fn filled(n: &mut Network, (argument, shape): (Argument, Vec<Extent>), value: f32) -> Blob {
    n.op("fill", vec![("shape", argument), ("value", float(value))], shape)
}

pub(super) fn fill_like(n: &mut Network, layer: &NeuralNetworkLayer, p: &Fill) -> Lowered<()> {
    let x = n.only(layer)?;
    let shape = n.shape_of(&x)?;
    let y = filled(n, shape, p.value);
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

pub(super) fn fill_static(n: &mut Network, layer: &NeuralNetworkLayer, p: &FillStatic) -> Lowered<()> {
    n.count(&p.target_shape)?;
    let shape: Vec<usize> = p.target_shape.iter().map(|&d| d as usize).collect();
    let y = n.filled(&shape, p.value)?;
    n.write(layer, vec![y])
}

pub(super) fn fill_dynamic(n: &mut Network, layer: &NeuralNetworkLayer, p: &Fill) -> Lowered<()> {
    if let Some(shape) = n.open_shape(layer, 0)? {
        return n.write_open(layer, "fill", vec![("shape", shape), ("value", float(p.value))]);
    }
    let shape = n.listed_shape(layer, 0)?;
    let y = filled(n, shape, p.value);
    n.write(layer, vec![y])
}

pub(super) fn get_shape(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    if let Some(known) = x.shape.iter().map(|d| d.map(|d| d as f32)).collect::<Option<Vec<f32>>>() {
        let y = n.constant(&[known.len()], &known);
        return n.write(layer, vec![y]);
    }
    let rank = Some(x.shape.len());
    let shape = n.typed("shape", vec![("x", of(&x))], DataType::I32, vec![rank]);
    let y = n.cast(&shape, DataType::F32);
    n.write(layer, vec![y])
}

pub(super) fn range(n: &mut Network, layer: &NeuralNetworkLayer, p: &RangeStatic) -> Lowered<()> {
    let count = ((f64::from(p.end_value) - f64::from(p.start_value)) / f64::from(p.step_size_value)).ceil();
    if !(1.0..=16_777_216.0).contains(&count) {
        return n.refuse(format!("a range of {count} numbers"));
    }
    let bounds = [("start", p.start_value), ("end", p.end_value), ("step", p.step_size_value)];
    let y = n.op("range_1d", bounds.map(|(name, v)| (name, float(v))).to_vec(), vec![Some(count as usize)]);
    n.write(layer, vec![y])
}

/// The end, the start and the step are inputs, as far as there are some.
pub(super) fn range_dynamic(n: &mut Network, layer: &NeuralNetworkLayer, p: &RangeDynamic) -> Lowered<()> {
    if !(1..=3).contains(&layer.input.len()) {
        return n.refuse(format!("it has {} inputs", layer.input.len()));
    }
    let mut inputs = Vec::with_capacity(3);
    for (i, (name, value)) in
        [("end", 0.0), ("start", p.start_value), ("step", p.step_size_value)].into_iter().enumerate()
    {
        let argument = match i < layer.input.len() {
            true => {
                let x = n.input(layer, i)?;
                of(&n.element(&x)?)
            }
            false => float(value),
        };
        inputs.push((name, argument));
    }
    let y = n.op("range_1d", inputs, vec![None]);
    n.write(layer, vec![y])
}
