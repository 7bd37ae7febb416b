//! Normalizations.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::normalization::{
    Batchnorm, L2Normalize, LayerNormalization, LocalResponseNormalization, MeanVarianceNormalize,
};

use super::build::{Network, float, int, ints, of};
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
        if !p.instance_normalization && x.shape[0] != Some(1) {
            return n.refuse("it computes mean and variance over a batch");
        }
        n.map("instance_norm", &x, parameters.into())
    } else {
        let mean = n.vector("mean", &p.mean, p.channels)?;
        let variance = n.vector("variance", &p.variance, p.channels)?;
        let more = [("mean", of(&mean)), ("variance", of(&variance))].into_iter().chain(parameters).collect();
        n.map("batch_norm", &x, more)
    };
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
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
    if p.local_size.is_multiple_of(2) {
        return n.refuse(format!("a window of {} channels has no centre", p.local_size));
    }
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
