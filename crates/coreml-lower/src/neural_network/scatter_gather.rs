//! Elements by index.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::scatter_gather::{
    Gather, GatherAlongAxis, OneHot, Scatter, ScatterAlongAxis, ScatterMode, ScatterNd,
};

use super::build::{Blob, Network, float, int, of};
use super::elementwise::truth;
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// An input that holds indices.
fn indices(n: &mut Network, layer: &NeuralNetworkLayer, i: usize) -> Lowered<Blob> {
    let x = n.input(layer, i)?;
    let x = n.full(&x);
    Ok(n.cast(&x, DataType::I32))
}

fn data(n: &mut Network, layer: &NeuralNetworkLayer, i: usize) -> Lowered<Blob> {
    let x = n.input(layer, i)?;
    Ok(n.full(&x))
}

pub(super) fn gather(n: &mut Network, layer: &NeuralNetworkLayer, p: &Gather) -> Lowered<()> {
    let (x, index) = (data(n, layer, 0)?, indices(n, layer, 1)?);
    let (x, axis) = n.axis(&x, p.axis)?;
    let mut shape = x.shape.clone();
    shape.splice(axis..=axis, index.shape.iter().copied());
    let y = n.op("gather", vec![("x", of(&x)), ("indices", of(&index)), ("axis", int(axis as i32))], shape);
    n.write(layer, vec![y])
}

pub(super) fn gather_along_axis(n: &mut Network, layer: &NeuralNetworkLayer, p: &GatherAlongAxis) -> Lowered<()> {
    let (x, index) = (data(n, layer, 0)?, indices(n, layer, 1)?);
    let (x, axis) = n.axis(&x, p.axis)?;
    let shape = index.shape.clone();
    let inputs = vec![("x", of(&x)), ("indices", of(&index)), ("axis", int(axis as i32))];
    let y = n.op("gather_along_axis", inputs, shape);
    n.write(layer, vec![y])
}

pub(super) fn gather_nd(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let (x, index) = (data(n, layer, 0)?, indices(n, layer, 1)?);
    let depth = n.known("length of indices", index.nth_last(1))?;
    if depth > x.shape.len() {
        return n.refuse(format!("indices of {depth} numbers for a blob of rank {}", x.shape.len()));
    }
    let mut shape = index.shape[..index.shape.len() - 1].to_vec();
    shape.extend(&x.shape[depth..]);
    let y = n.op("gather_nd", vec![("x", of(&x)), ("indices", of(&index))], shape);
    n.write(layer, vec![y])
}

fn mode(n: &Network, mode: i32) -> Lowered<&'static str> {
    Ok(match n.choice("mode", mode)? {
        ScatterMode::Update => "update",
        ScatterMode::Add => "add",
        ScatterMode::Sub => "sub",
        ScatterMode::Mul => "mul",
        ScatterMode::Div => "div",
        ScatterMode::Max => "max",
        ScatterMode::Min => "min",
    })
}

fn scattered(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str, how: i32, axis: Option<i64>) -> Lowered<()> {
    let (x, index, updates) = (data(n, layer, 0)?, indices(n, layer, 1)?, data(n, layer, 2)?);
    let mode = mode(n, how)?;
    let mut inputs = vec![("data", of(&x)), ("indices", of(&index)), ("updates", of(&updates)), ("mode", text(mode))];
    if let Some(axis) = axis {
        let (_, axis) = n.axis(&x, axis)?;
        inputs.push(("axis", int(axis as i32)));
    }
    let y = n.op(kind, inputs, x.shape.clone());
    n.write(layer, vec![y])
}

pub(super) fn scatter(n: &mut Network, layer: &NeuralNetworkLayer, p: &Scatter) -> Lowered<()> {
    scattered(n, layer, "scatter", p.mode, Some(p.axis))
}

pub(super) fn scatter_along_axis(n: &mut Network, layer: &NeuralNetworkLayer, p: &ScatterAlongAxis) -> Lowered<()> {
    scattered(n, layer, "scatter_along_axis", p.mode, Some(p.axis))
}

pub(super) fn scatter_nd(n: &mut Network, layer: &NeuralNetworkLayer, p: &ScatterNd) -> Lowered<()> {
    scattered(n, layer, "scatter_nd", p.mode, None)
}

pub(super) fn select(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let (cond, a, b) = (data(n, layer, 0)?, data(n, layer, 1)?, data(n, layer, 2)?);
    let cond = truth(n, &cond)?;
    let both = n.broadcast(&a.shape, &b.shape)?;
    let shape = n.broadcast(&cond.shape, &both)?;
    let y = n.op("select", vec![("cond", of(&cond)), ("a", of(&a)), ("b", of(&b))], shape);
    n.write(layer, vec![y])
}

pub(super) fn one_hot(n: &mut Network, layer: &NeuralNetworkLayer, p: &OneHot) -> Lowered<()> {
    if layer.input.len() != 1 {
        return n.refuse("its size is computed");
    }
    let index = indices(n, layer, 0)?;
    let size = n.size("oneHotVectorSize", p.one_hot_vector_size)?;
    let rank = index.shape.len() as i64 + 1;
    let axis = if p.axis < 0 { p.axis.saturating_add(rank) } else { p.axis };
    if !(0..rank).contains(&axis) {
        return n.refuse(format!("`axis` is {}", p.axis));
    }
    let mut shape = index.shape.clone();
    shape.insert(axis as usize, Some(size as usize));
    let inputs = vec![
        ("indices", of(&index)),
        ("one_hot_vector_size", int(size)),
        ("axis", int(axis as i32)),
        ("on_value", float(p.on_value)),
        ("off_value", float(p.off_value)),
    ];
    let y = n.op("one_hot", inputs, shape);
    n.write(layer, vec![y])
}
