//! Elements by index.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::scatter_gather::{
    BoxSuppression, Gather, GatherAlongAxis, OneHot, Scatter, ScatterAlongAxis, ScatterMode, ScatterNd,
};

use coreml_format::program::Argument;

use super::build::{Blob, Network, float, int, of, tensor};
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
    let index = indices(n, layer, 0)?;
    let (size, extent) = match layer.input.len() {
        1 => {
            let size = n.size("oneHotVectorSize", p.one_hot_vector_size)?;
            (int(size), Some(size as usize))
        }
        _ => (n.number(layer, 1)?, None),
    };
    let rank = index.shape.len() as i64 + 1;
    let axis = if p.axis < 0 { p.axis.saturating_add(rank) } else { p.axis };
    if !(0..rank).contains(&axis) {
        return n.refuse(format!("`axis` is {}", p.axis));
    }
    let mut shape = index.shape.clone();
    shape.insert(axis as usize, extent);
    let inputs = vec![
        ("indices", of(&index)),
        ("one_hot_vector_size", size),
        ("axis", int(axis as i32)),
        ("on_value", float(p.on_value)),
        ("off_value", float(p.off_value)),
    ];
    let y = n.op("one_hot", inputs, shape);
    n.write(layer, vec![y])
}

pub(super) fn non_zero(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let shape = vec![None, Some(x.shape.len())];
    let found = n.typed("non_zero", vec![("x", of(&x))], DataType::I32, shape);
    let y = n.cast(&found, DataType::F32);
    n.write(layer, vec![y])
}

pub(super) fn suppress_boxes(n: &mut Network, layer: &NeuralNetworkLayer, p: &BoxSuppression) -> Lowered<()> {
    let (boxes, scores) = (data(n, layer, 0)?, data(n, layer, 1)?);
    let ([batch, _, _], [_, _, classes]) = (&boxes.shape[..], &scores.shape[..]) else {
        return n.refuse("its boxes or scores do not have rank 3");
    };
    if layer.input.len() > 5 || layer.output.len() != 4 {
        return n.refuse(format!("it has {} inputs and {} outputs", layer.input.len(), layer.output.len()));
    }
    let (batch, classes) = (*batch, *classes);
    let threshold = |n: &mut Network, i: usize, field: f32| -> Lowered<Argument> {
        match layer.input.len() > i {
            true => {
                let x = n.input(layer, i)?;
                Ok(of(&n.element(&x)?))
            }
            false => Ok(float(field)),
        }
    };
    let (overlap, least) = (threshold(n, 2, p.iou_threshold)?, threshold(n, 3, p.score_threshold)?);
    let (most, extent) = match layer.input.len() > 4 {
        true => (n.number(layer, 4)?, None),
        false => (int(n.size("maxBoxes", p.max_boxes)?), Some(p.max_boxes as usize)),
    };
    let inputs = vec![
        ("boxes", of(&boxes)),
        ("scores", of(&scores)),
        ("iou_threshold", overlap),
        ("score_threshold", least),
        ("max_boxes", most),
        ("per_class_suppression", super::build::flag(p.per_class_suppression)),
    ];
    let shapes = [vec![batch, extent, Some(4)], vec![batch, extent, classes], vec![batch, extent], vec![batch]];
    let types = [DataType::F32, DataType::F32, DataType::I32, DataType::I32];
    let types = types.iter().zip(&shapes).map(|(&dtype, shape)| tensor(dtype, shape)).collect();
    let names = n.push("engine.suppress_boxes", inputs, types);
    let made = names.into_iter().zip(shapes).map(|(name, shape)| Blob { name, shape, short: false });
    let mut results: Vec<Blob> = made.collect();
    for integers in &mut results[2..] {
        *integers = n.cast(integers, DataType::F32);
    }
    n.write(layer, results)
}
