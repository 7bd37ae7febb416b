//! Random numbers and samples.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::constant::CategoricalDistribution;
use coreml_format::program::Argument;

use super::build::{Extent, Network, float, int, of};
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// A distribution: the operation, and its parameters by name.
type Distribution = (&'static str, [Option<(&'static str, f32)>; 2]);

pub(super) fn normal(mean: f32, deviation: f32) -> Distribution {
    ("random_normal", [Some(("mean", mean)), Some(("stddev", deviation))])
}

pub(super) fn uniform(low: f32, high: f32) -> Distribution {
    ("random_uniform", [Some(("low", low)), Some(("high", high))])
}

pub(super) fn bernoulli(probability: f32) -> Distribution {
    ("random_bernoulli", [Some(("prob", probability)), None])
}

fn seed(n: &Network, seed: i64) -> Lowered<Argument> {
    Ok(int(n.size("seed", seed.max(-1))?))
}

fn draw(
    n: &mut Network,
    layer: &NeuralNetworkLayer,
    from: Distribution,
    number: i64,
    (argument, shape): (Argument, Vec<Extent>),
) -> Lowered<()> {
    let (kind, parameters) = from;
    let mut inputs = vec![("shape", argument), ("seed", seed(n, number)?)];
    inputs.extend(parameters.into_iter().flatten().map(|(name, value)| (name, float(value))));
    let y = n.op(kind, inputs, shape);
    n.write(layer, vec![y])
}

/// Numbers in the shape of the input.
pub(super) fn like(n: &mut Network, layer: &NeuralNetworkLayer, from: Distribution, seed: i64) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let shape = n.shape_of(&x)?;
    draw(n, layer, from, seed, shape)
}

/// Numbers in a given shape.
pub(super) fn fixed(
    n: &mut Network,
    layer: &NeuralNetworkLayer,
    from: Distribution,
    seed: i64,
    shape: &[u64],
) -> Lowered<()> {
    n.count(shape)?;
    let target = n.sizes("outputShape", shape)?;
    let shape = target.iter().map(|&d| Some(d as usize)).collect();
    draw(n, layer, from, seed, (super::build::ints(&target), shape))
}

/// Numbers in the shape that the input lists.
pub(super) fn listed(n: &mut Network, layer: &NeuralNetworkLayer, from: Distribution, seed: i64) -> Lowered<()> {
    let shape = n.listed_shape(layer, 0)?;
    draw(n, layer, from, seed, shape)
}

pub(super) fn categorical(n: &mut Network, layer: &NeuralNetworkLayer, p: &CategoricalDistribution) -> Lowered<()> {
    let x = n.only(layer)?;
    let mut x = n.full(&x);
    let temperature = if p.temperature == 0.0 { 1.0 } else { p.temperature };
    let count = n.size("numSamples", p.num_samples)?;
    if count < 1 || x.shape.is_empty() {
        return n.refuse(format!("{count} samples of a blob of rank {}", x.shape.len()));
    }
    let mut mode = if p.is_logits { "logits" } else { "probs" };
    if temperature != 1.0 {
        if !p.is_logits {
            let shifted = n.with("add", &x, if p.eps == 0.0 { 1e-10 } else { p.eps });
            x = n.map("log", &shifted, vec![("epsilon", float(0.0))]);
            mode = "logits";
        }
        x = n.with("mul", &x, 1.0 / temperature);
    }
    let mut shape = x.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = Some(count as usize);
    }
    let inputs = vec![("x", of(&x)), ("mode", text(mode)), ("size", int(count)), ("seed", seed(n, p.seed)?)];
    let drawn = n.typed("random_categorical", inputs, DataType::I32, shape);
    let y = n.cast(&drawn, DataType::F32);
    n.write(layer, vec![y])
}
