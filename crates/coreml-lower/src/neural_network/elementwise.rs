//! Arithmetic, comparisons and functions of single elements.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::elementwise::{
    Bias, Clip, DotProduct, Scale, UnaryFunction, UnaryOperation,
};
use coreml_format::model_types::neural_network::weights::WeightParams;

use super::build::{Blob, Network, float};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// A function without parameters.
pub(super) fn unary(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str) -> Lowered<()> {
    let x = n.only(layer)?;
    let y = n.map(kind, &x, Vec::new());
    n.write(layer, vec![y])
}

/// ln(x + √(x² + c)).
fn area(n: &mut Network, x: &Blob, c: f32) -> Lowered<Blob> {
    let square = n.map("square", x, Vec::new());
    let shifted = n.with("add", &square, c);
    let root = n.map("sqrt", &shifted, Vec::new());
    let sum = n.binary("add", x, &root)?;
    Ok(n.map("log", &sum, Vec::new()))
}

pub(super) fn asinh(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.only(layer)?;
    let size = n.map("abs", &x, Vec::new());
    let y = area(n, &size, 1.0)?;
    let sign = n.map("sign", &x, Vec::new());
    let y = n.binary("mul", &sign, &y)?;
    n.write(layer, vec![y])
}

pub(super) fn acosh(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.only(layer)?;
    let y = area(n, &x, -1.0)?;
    n.write(layer, vec![y])
}

/// A function of all inputs, two at a time; of one input and `alpha`, where there is one.
fn folded(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str, alpha: Option<f32>) -> Lowered<Blob> {
    let inputs = n.inputs(layer)?;
    match (inputs.as_slice(), alpha) {
        ([x], Some(alpha)) => Ok(n.with(kind, x, alpha)),
        ([x, rest @ ..], _) => rest.iter().try_fold(x.clone(), |sum, y| n.binary(kind, &sum, y)),
        ([], _) => n.refuse("it has no inputs"),
    }
}

pub(super) fn fold(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str, alpha: Option<f32>) -> Lowered<()> {
    let y = folded(n, layer, kind, alpha)?;
    n.write(layer, vec![y])
}

pub(super) fn average(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let sum = folded(n, layer, "add", None)?;
    let y = n.with("real_div", &sum, layer.input.len() as f32);
    n.write(layer, vec![y])
}

/// A function of two inputs.
pub(super) fn binary(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str) -> Lowered<()> {
    if layer.input.len() != 2 {
        return n.refuse(format!("it has {} inputs", layer.input.len()));
    }
    fold(n, layer, kind, None)
}

/// The remainder with the sign of the divisor: x − y · ⌊x / y⌋.
pub(super) fn modulo(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    if layer.input.len() != 2 {
        return n.refuse(format!("it has {} inputs", layer.input.len()));
    }
    let (x, y) = (n.input(layer, 0)?, n.input(layer, 1)?);
    let whole = n.binary("floor_div", &x, &y)?;
    let product = n.binary("mul", &y, &whole)?;
    let rest = n.binary("sub", &x, &product)?;
    n.write(layer, vec![rest])
}

/// A comparison of two inputs, or of one with `alpha`: 1 or 0.
pub(super) fn compare(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str, alpha: f32) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let y = match layer.input.len() {
        1 => n.constant(&[], &[alpha]),
        2 => n.input(layer, 1)?,
        inputs => return n.refuse(format!("it has {inputs} inputs")),
    };
    let holds = n.binary_as(kind, &x, &y, DataType::Bool)?;
    let y = n.cast(&holds, DataType::F32);
    n.write(layer, vec![y])
}

/// x ≠ 0.
pub(super) fn truth(n: &mut Network, x: &Blob) -> Lowered<Blob> {
    let zero = n.constant(&[], &[0.0]);
    n.binary_as("not_equal", x, &zero, DataType::Bool)
}

/// A function of truth values, as 1 or 0.
pub(super) fn logical(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str) -> Lowered<()> {
    let (x, y) = (n.input(layer, 0)?, n.input(layer, 1)?);
    let (x, y) = (truth(n, &x)?, truth(n, &y)?);
    let holds = n.binary_as(kind, &x, &y, DataType::Bool)?;
    let y = n.cast(&holds, DataType::F32);
    n.write(layer, vec![y])
}

pub(super) fn logical_not(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.only(layer)?;
    let zero = n.constant(&[], &[0.0]);
    let holds = n.binary_as("equal", &x, &zero, DataType::Bool)?;
    let y = n.cast(&holds, DataType::F32);
    n.write(layer, vec![y])
}

pub(super) fn function(n: &mut Network, layer: &NeuralNetworkLayer, p: &UnaryFunction) -> Lowered<()> {
    let mut x = n.only(layer)?;
    let scale = if p.scale == 0.0 { 1.0 } else { p.scale };
    if (scale, p.shift) != (1.0, 0.0) {
        x = n.map("linear_activation", &x, vec![("alpha", float(scale)), ("beta", float(p.shift))]);
    }
    let epsilon = || vec![("epsilon", float(if p.epsilon == 0.0 { 1e-6 } else { p.epsilon }))];
    let y = match n.choice("type", p.ty)? {
        UnaryOperation::Sqrt => n.map("sqrt", &x, Vec::new()),
        UnaryOperation::Rsqrt => n.map("rsqrt", &x, epsilon()),
        UnaryOperation::Inverse => n.map("inverse", &x, epsilon()),
        UnaryOperation::Power => n.with("pow", &x, p.alpha),
        UnaryOperation::Exp => n.map("exp", &x, Vec::new()),
        UnaryOperation::Log => n.map("log", &x, epsilon()),
        UnaryOperation::Abs => n.map("abs", &x, Vec::new()),
        UnaryOperation::Threshold => n.map("threshold", &x, vec![("alpha", float(p.alpha))]),
    };
    n.write(layer, vec![y])
}

pub(super) fn clip(n: &mut Network, layer: &NeuralNetworkLayer, p: &Clip) -> Lowered<()> {
    let x = n.only(layer)?;
    let y = n.map("clip", &x, vec![("alpha", float(p.min_val)), ("beta", float(p.max_val))]);
    n.write(layer, vec![y])
}

/// Weights `[1]`, `[C]`, `[1, H, W]` or `[C, H, W]` against the last three axes.
fn against(n: &mut Network, what: &str, p: &Option<Box<WeightParams>>, shape: &[u64]) -> Lowered<Blob> {
    let count = n.count(shape)?;
    let values = n.weights(what, p, count, count)?;
    match shape {
        [_] => Ok(n.constant(&[count, 1, 1], &values)),
        [c, h, w] => Ok(n.constant(&[*c as usize, *h as usize, *w as usize], &values)),
        _ => n.refuse(format!("`{what}` has the shape {shape:?}")),
    }
}

pub(super) fn scale(n: &mut Network, layer: &NeuralNetworkLayer, p: &Scale) -> Lowered<()> {
    let x = n.only(layer)?;
    if x.rank() < 3 {
        return n.refuse(format!("its input has rank {}", x.rank()));
    }
    let scale = against(n, "scale", &p.scale, &p.shape_scale)?;
    let mut y = n.binary("mul", &x, &scale)?;
    if p.has_bias {
        let bias = against(n, "bias", &p.bias, &p.shape_bias)?;
        y = n.binary("add", &y, &bias)?;
    }
    n.write(layer, vec![y])
}

pub(super) fn bias(n: &mut Network, layer: &NeuralNetworkLayer, p: &Bias) -> Lowered<()> {
    let x = n.only(layer)?;
    if x.rank() < 3 {
        return n.refuse(format!("its input has rank {}", x.rank()));
    }
    let bias = against(n, "bias", &p.bias, &p.shape)?;
    let y = n.binary("add", &x, &bias)?;
    n.write(layer, vec![y])
}

pub(super) fn dot(n: &mut Network, layer: &NeuralNetworkLayer, p: &DotProduct) -> Lowered<()> {
    let (x, y) = (n.input(layer, 0)?, n.input(layer, 1)?);
    let products = n.binary("mul", &x, &y)?;
    let mut sum = n.reduced("reduce_sum", &products, &[3])?;
    if p.cosine_similarity {
        for side in [&x, &y] {
            let norm = n.reduced("reduce_l2_norm", side, &[3])?;
            sum = n.binary("real_div", &sum, &norm)?;
        }
    }
    n.write(layer, vec![sum])
}
