//! Constants and blobs of one value.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::constant::{Fill, FillStatic, LoadConstant};
use coreml_format::model_types::neural_network::control_flow::RangeStatic;

use super::build::{Blob, Extent, Network, float, ints, of};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

fn constant(n: &mut Network, p: &LoadConstant) -> Lowered<Blob> {
    let count = n.count(&p.shape)?;
    let values = n.weights("data", &p.data, count, p.shape.first().map_or(0, |&d| d as usize))?;
    let shape: Vec<usize> = p.shape.iter().map(|&d| d as usize).collect();
    Ok(n.constant(&shape, &values))
}

/// `[C, H, W]` as `[1, 1, C, H, W]`.
pub(super) fn load(n: &mut Network, layer: &NeuralNetworkLayer, p: &LoadConstant) -> Lowered<()> {
    let [c, h, w] = *p.shape else { return n.refuse(format!("`shape` is {:?}", p.shape)) };
    let five = LoadConstant { shape: vec![1, c, h, w], data: p.data.clone() };
    // Scales, if there are several, are those of channels.
    let values = n.weights("data", &p.data, n.count(&[c, h, w])?, c as usize)?;
    let shape: Vec<usize> = five.shape.iter().map(|&d| d as usize).collect();
    let y = Blob { short: true, ..n.constant(&shape, &values) };
    n.write(layer, vec![y])
}

pub(super) fn load_nd(n: &mut Network, layer: &NeuralNetworkLayer, p: &LoadConstant) -> Lowered<()> {
    let y = constant(n, p)?;
    n.write(layer, vec![y])
}

fn filled(n: &mut Network, shape: Vec<Extent>, value: f32) -> Lowered<Blob> {
    let known = shape.iter().map(|&d| n.known("shape", d)).collect::<Lowered<Vec<_>>>()?;
    let target = n.sizes("shape", &known)?;
    Ok(n.op("fill", vec![("shape", ints(&target)), ("value", float(value))], shape))
}

pub(super) fn fill_like(n: &mut Network, layer: &NeuralNetworkLayer, p: &Fill) -> Lowered<()> {
    let x = n.only(layer)?;
    let y = filled(n, x.shape.clone(), p.value)?;
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

pub(super) fn fill_static(n: &mut Network, layer: &NeuralNetworkLayer, p: &FillStatic) -> Lowered<()> {
    n.count(&p.target_shape)?;
    let y = filled(n, p.target_shape.iter().map(|&d| Some(d as usize)).collect(), p.value)?;
    n.write(layer, vec![y])
}

pub(super) fn get_shape(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
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
