//! Normalizations.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::normalization::{
    Batchnorm, L2Normalize, LayerNormalization, LocalResponseNormalization, MeanVarianceNormalize,
};

use coreml_format::program::{Argument, Binding, Operation, TensorData, ValueData};

use super::build::{Blob, Network, float, int, ints, of};
use super::weights::f32s;
use crate::emit::named;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// A number that 0 stands for.
fn or(value: f32, default: f32) -> f32 {
    if value == 0.0 { default } else { value }
}

pub(super) fn batchnorm(n: &mut Network, layer: &NeuralNetworkLayer, p: &Batchnorm) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, lead) = n.nchw(&x)?;
    if x.shape[1].is_some_and(|c| c as u64 != p.channels) {
        return n.refuse(format!("{} channels for another number of them", p.channels));
    }
    let gamma = n.vector("gamma", &p.gamma, p.channels)?;
    let beta = n.vector("beta", &p.beta, p.channels)?;
    let parameters = [("gamma", of(&gamma)), ("beta", of(&beta)), ("epsilon", float(or(p.epsilon, 1e-5)))];
    let y = if p.compute_mean_var {
        if p.instance_normalization || x.shape[0] == Some(1) {
            n.map("instance_norm", &x, parameters.into())
        } else {
            // Over the batch, as an instance of one.
            let parts = [x.shape[0], x.shape[1], super::build::product(&x.shape[2..])];
            let rows = n.reshape(&x, parts.to_vec())?;
            let columns = n.transpose(&rows, &[1, 0, 2]);
            let wide = n.reshape(&columns, vec![Some(1), x.shape[1], None, Some(1)])?;
            let y = n.map("instance_norm", &wide, parameters.into());
            let y = n.reshape(&y, columns.shape.clone())?;
            let y = n.transpose(&y, &[1, 0, 2]);
            n.reshape(&y, x.shape.clone())?
        }
    } else {
        let read_once = layer.input.first().and_then(|name| n.reads.get(name)) == Some(&1);
        if read_once && let Some(y) = folded(n, &x, p)? {
            let y = n.back(y, &lead)?;
            return n.write(layer, vec![y]);
        }
        let mean = n.vector("mean", &p.mean, p.channels)?;
        let variance = n.vector("variance", &p.variance, p.channels)?;
        let more = [("mean", of(&mean)), ("variance", of(&variance))].into_iter().chain(parameters).collect();
        n.map("batch_norm", &x, more)
    };
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
}

/// The convolution that makes `x`, which nothing else reads, with its weights scaled: the normalization is a factor and a
/// term for each of its outputs. `None` if something else makes `x`.
fn folded(n: &mut Network, x: &Blob, p: &Batchnorm) -> Lowered<Option<Blob>> {
    let made = |name: &str| n.operations.iter().rposition(|op| op.outputs.first().is_some_and(|o| o.name == name));
    let constant = |name: &str| {
        let op = &n.operations[made(name)?];
        op.attributes.get("val").filter(|_| op.kind == "const")
    };
    let name_of = |op: &Operation, parameter: &str| match op.inputs.get(parameter) {
        Some(Argument::One(Binding::Name(name))) => Some(name.clone()),
        _ => None,
    };
    let Some(at) = made(&x.name).filter(|&at| n.operations[at].kind == "conv") else { return Ok(None) };
    let Some(weight) = name_of(&n.operations[at], "weight") else { return Ok(None) };
    let Some(shape) = constant(&weight).and_then(|v| v.ty.tensor()?.fixed_shape()) else { return Ok(None) };
    let channels = n.count(&[p.channels])?;
    let old = match name_of(&n.operations[at], "bias") {
        None => vec![0.0; channels],
        Some(bias) => match constant(&bias).map(|v| &v.data) {
            Some(ValueData::Tensor(TensorData::Bytes(bytes))) => f32s(bytes),
            _ => return Ok(None),
        },
    };
    if shape.first() != Some(&channels) || old.len() != channels {
        return Ok(None);
    }
    let numbers = |n: &Network, what, params| n.weights(what, params, channels, channels);
    let (gamma, beta) = (numbers(n, "gamma", &p.gamma)?, numbers(n, "beta", &p.beta)?);
    let (mean, variance) = (numbers(n, "mean", &p.mean)?, numbers(n, "variance", &p.variance)?);
    let epsilon = or(p.epsilon, 1e-5);
    let scale: Vec<f32> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let shift = |i: usize| (old[i] - mean[i]) * scale[i] + beta[i];
    let bias: Vec<f32> = (0..channels).map(shift).collect();
    let blocks: Vec<usize> = (0..shape.len()).map(|d| if d == 0 { channels } else { 1 }).collect();
    let scale = n.constant(&blocks, &scale);
    let inputs = vec![("data", named(&weight)), ("scale", of(&scale))];
    let scaled = n.op("engine.linear_weight", inputs, shape.iter().map(|&d| Some(d)).collect());
    let bias = n.constant(&[channels], &bias);
    // Behind the constants that it takes now.
    let mut convolution = n.operations.remove(at);
    convolution.inputs.insert("weight".to_owned(), of(&scaled));
    convolution.inputs.insert("bias".to_owned(), of(&bias));
    n.operations.push(convolution);
    Ok(Some(x.clone()))
}

pub(super) fn mvn(n: &mut Network, layer: &NeuralNetworkLayer, p: &MeanVarianceNormalize) -> Lowered<()> {
    let x = n.only(layer)?;
    let axes: &[usize] = if p.across_channels { &[3, 2, 1] } else { &[2, 1] };
    let mean = n.reduced("reduce_mean", &x, axes)?;
    let mut y = n.binary("sub", &x, &mean)?;
    if p.normalize_variance {
        let square = n.map("square", &y, Vec::new());
        let variance = n.reduced("reduce_mean", &square, axes)?;
        let scale = n.map("rsqrt", &variance, vec![("epsilon", float(or(p.epsilon, 1e-6)))]);
        y = n.binary("mul", &y, &scale)?;
    }
    n.write(layer, vec![y])
}

pub(super) fn l2normalize(n: &mut Network, layer: &NeuralNetworkLayer, p: &L2Normalize) -> Lowered<()> {
    let x = n.only(layer)?;
    if x.rank() < 3 {
        return n.refuse(format!("its input has rank {}", x.rank()));
    }
    let y = n.map("l2_norm", &x, vec![("epsilon", float(or(p.epsilon, 1e-6)))]);
    n.write(layer, vec![y])
}

pub(super) fn lrn(n: &mut Network, layer: &NeuralNetworkLayer, p: &LocalResponseNormalization) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, lead) = n.nchw(&x)?;
    // A window of an even size reaches further back, as in PyTorch.
    let more = vec![
        ("size", int(n.size("localSize", p.local_size)?)),
        ("alpha", float(p.alpha)),
        ("beta", float(p.beta)),
        ("k", float(or(p.k, 1.0))),
    ];
    let y = n.map("local_response_norm", &x, more);
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
}

pub(super) fn layer_normalization(n: &mut Network, layer: &NeuralNetworkLayer, p: &LayerNormalization) -> Lowered<()> {
    let x = n.only(layer)?;
    let sizes: Vec<u64> = n.sizes("normalizedShape", &p.normalized_shape)?.iter().map(|&d| d.max(0) as u64).collect();
    let rank = x.shape.len();
    let fits = |at: usize, d: u64| x.shape[at].is_none_or(|e| e as u64 == d);
    if sizes.is_empty()
        || sizes.len() > rank
        || !sizes.iter().enumerate().all(|(i, &d)| fits(rank - sizes.len() + i, d))
    {
        return n.refuse(format!("`normalizedShape` {sizes:?} for a blob of {}", super::build::shown(&x.shape)));
    }
    let (count, shape) = (n.count(&sizes)?, sizes.iter().map(|&d| d as usize).collect::<Vec<_>>());
    let gamma = n.weights("gamma", &p.gamma, count, count)?;
    let beta = n.weights("beta", &p.beta, count, count)?;
    let (gamma, beta) = (n.constant(&shape, &gamma), n.constant(&shape, &beta));
    let axes: Vec<i32> = (1..=sizes.len() as i32).rev().map(|a| -a).collect();
    let more = vec![("axes", ints(&axes)), ("gamma", of(&gamma)), ("beta", of(&beta)), ("epsilon", float(p.eps))];
    let y = n.map("layer_norm", &x, more);
    n.write(layer, vec![y])
}
