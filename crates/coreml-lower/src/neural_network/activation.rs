//! Activation functions and softmax.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::activation::{
    Activation, ClampedRelu, Gelu, GeluMode, Nonlinearity, SoftmaxNd,
};
use coreml_format::model_types::neural_network::weights::WeightParams;

use super::build::{Blob, Network, float, int, of};
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

pub(super) fn activation(n: &mut Network, layer: &NeuralNetworkLayer, p: &Activation) -> Lowered<()> {
    let x = n.only(layer)?;
    let y = match &p.function {
        Some(Nonlinearity::PRelu(p)) => {
            let alpha = per_channel(n, "alpha", &p.alpha, &x)?;
            by_channel(n, "prelu", &x, vec![("alpha", alpha)])?
        }
        Some(Nonlinearity::ParametricSoftplus(p)) => {
            let (alpha, beta) = (per_channel(n, "alpha", &p.alpha, &x)?, per_channel(n, "beta", &p.beta, &x)?);
            by_channel(n, "softplus_parametric", &x, vec![("alpha", alpha), ("beta", beta)])?
        }
        Some(function) => apply(n, &x, function)?,
        None => return n.refuse("it names no function"),
    };
    n.write(layer, vec![y])
}

/// A function without parameters for channels.
fn apply(n: &mut Network, x: &Blob, function: &Nonlinearity) -> Lowered<Blob> {
    let both = |alpha, beta| vec![("alpha", float(alpha)), ("beta", float(beta))];
    let one = |alpha| vec![("alpha", float(alpha))];
    let (kind, more) = match function {
        Nonlinearity::Linear(p) => ("linear_activation", both(p.alpha, p.beta)),
        Nonlinearity::Relu(_) => ("relu", Vec::new()),
        Nonlinearity::LeakyRelu(p) => ("leaky_relu", one(p.alpha)),
        Nonlinearity::ThresholdedRelu(p) => ("thresholded_relu", one(p.alpha)),
        Nonlinearity::Tanh(_) => ("tanh", Vec::new()),
        Nonlinearity::ScaledTanh(p) => ("scaled_tanh", both(p.alpha, p.beta)),
        Nonlinearity::Sigmoid(_) => ("sigmoid", Vec::new()),
        Nonlinearity::SigmoidHard(p) => ("sigmoid_hard", both(p.alpha, p.beta)),
        Nonlinearity::Elu(p) => ("elu", one(p.alpha)),
        Nonlinearity::Softsign(_) => ("softsign", Vec::new()),
        Nonlinearity::Softplus(_) => ("softplus", Vec::new()),
        Nonlinearity::PRelu(_) | Nonlinearity::ParametricSoftplus(_) => {
            return n.refuse("its parameters are those of channels");
        }
    };
    Ok(n.map(kind, x, more))
}

/// Parameters of the channels; one counts for all.
fn per_channel(n: &mut Network, what: &str, p: &Option<Box<WeightParams>>, x: &Blob) -> Lowered<Blob> {
    let channels = n.known("channels", x.nth_last(3))?;
    let values = match n.weights(what, p, channels, channels) {
        Ok(values) => values,
        Err(e) => {
            let one = n.weights(what, p, 1, 1).map_err(|_| e)?;
            n.claim("channels", channels)?;
            one.repeat(channels)
        }
    };
    Ok(n.constant(&[channels], &values))
}

fn by_channel(n: &mut Network, kind: &str, x: &Blob, parameters: Vec<(&str, Blob)>) -> Lowered<Blob> {
    let (x, lead) = n.nchw(x)?;
    let more = parameters.iter().map(|(name, b)| (*name, of(b))).collect();
    let y = n.map(kind, &x, more);
    n.back(y, &lead)
}

pub(super) fn clamped_relu(n: &mut Network, layer: &NeuralNetworkLayer, p: &ClampedRelu) -> Lowered<()> {
    let x = n.only(layer)?;
    let y = n.map("clamped_relu", &x, vec![("alpha", float(p.alpha)), ("beta", float(p.beta))]);
    n.write(layer, vec![y])
}

pub(super) fn gelu(n: &mut Network, layer: &NeuralNetworkLayer, p: &Gelu) -> Lowered<()> {
    let x = n.only(layer)?;
    let mode = match n.choice("mode", p.mode)? {
        GeluMode::Exact => "EXACT",
        GeluMode::TanhApproximation => "TANH_APPROXIMATION",
        GeluMode::SigmoidApproximation => "SIGMOID_APPROXIMATION",
    };
    let y = n.map("gelu", &x, vec![("mode", text(mode))]);
    n.write(layer, vec![y])
}

pub(super) fn softmax(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    softmax_nd(n, layer, &SoftmaxNd { axis: -3 })
}

pub(super) fn softmax_nd(n: &mut Network, layer: &NeuralNetworkLayer, p: &SoftmaxNd) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, axis) = n.axis(&x, p.axis)?;
    let y = n.map("softmax", &x, vec![("axis", int(axis as i32))]);
    n.write(layer, vec![y])
}
