//! Activations of recurrent cells, by name.

use coreml_kernels::elementwise::{Elu, Sigmoid, Softplus, Tanh, map_in_place};

use super::is_layer;
use crate::build::OpBuilder;
use crate::error::OpError;

/// A function with two parameters, applied in place to a slice.
#[derive(Clone, Copy)]
pub(super) struct Activation {
    apply: fn(&mut [f32], f32, f32),
    alpha: f32,
    beta: f32,
}

impl Activation {
    const fn new(apply: fn(&mut [f32], f32, f32)) -> Self {
        Self { apply, alpha: 1.0, beta: 0.0 }
    }

    const fn with(self, alpha: f32, beta: f32) -> Self {
        Self { alpha, beta, ..self }
    }

    pub(super) fn run(self, v: &mut [f32]) {
        (self.apply)(v, self.alpha, self.beta);
    }
}

const SIGMOID: Activation = Activation::new(|v, _, _| map_in_place(v, Sigmoid));
const TANH: Activation = Activation::new(|v, _, _| map_in_place(v, Tanh));
const HARD: Activation =
    Activation::new(|v, a, b| map_in_place(v, |x: f32| (a * x + b).clamp(0.0, 1.0))).with(0.2, 0.5);

/// All activations by name.
const ACTIVATIONS: [(&str, Activation); 12] = [
    ("tanh", TANH),
    ("sigmoid", SIGMOID),
    ("linear", Activation::new(|v, a, b| map_in_place(v, |x: f32| a * x + b))),
    ("relu", Activation::new(|v, _, _| map_in_place(v, |x: f32| x.max(0.0)))),
    // Both constants of `scaled_tanh` are 1 here, as in coremltools' tests of `lstm`.
    ("scaled_tanh", Activation::new(scaled_tanh).with(1.0, 1.0)),
    ("sigmoid_hard", HARD),
    ("hard_sigmoid", HARD),
    ("softplus", Activation::new(|v, _, _| map_in_place(v, Softplus))),
    ("softsign", Activation::new(|v, _, _| map_in_place(v, |x: f32| x / (1.0 + x.abs())))),
    (
        "leaky_relu",
        Activation::new(|v, a, _| map_in_place(v, |x: f32| if x >= 0.0 { x } else { a * x })).with(0.01, 0.0),
    ),
    ("elu", Activation::new(|v, a, _| map_in_place(v, Elu { alpha: a }))),
    ("thresholded_relu", Activation::new(|v, a, _| map_in_place(v, |x: f32| if x >= a { x } else { 0.0 }))),
];

fn scaled_tanh(v: &mut [f32], alpha: f32, beta: f32) {
    v.iter_mut().for_each(|x| *x *= beta);
    map_in_place(v, Tanh);
    v.iter_mut().for_each(|x| *x *= alpha);
}

/// The activation named by a parameter; a layer of a network may give its α and β.
fn activation(b: &OpBuilder<'_>, parameter: &str, default: Activation) -> Result<Activation, OpError> {
    let found = b.choice_or(parameter, default, &ACTIVATIONS)?;
    if !is_layer(b) {
        return Ok(found);
    }
    match b.attr_opt::<Vec<f32>>(&format!("{parameter}_parameters"))?.as_deref() {
        None => Ok(found),
        Some(&[alpha, beta]) => Ok(found.with(alpha, beta)),
        Some(other) => Err(OpError::data(format!("parameters {other:?} of an activation"))),
    }
}

/// The activation named by a parameter, `tanh` by default.
pub(super) fn tanh_or(b: &OpBuilder<'_>, parameter: &str) -> Result<Activation, OpError> {
    activation(b, parameter, TANH)
}

/// The activation named by a parameter, `sigmoid` by default.
pub(super) fn sigmoid_or(b: &OpBuilder<'_>, parameter: &str) -> Result<Activation, OpError> {
    activation(b, parameter, SIGMOID)
}

/// Clips to ±`limit`, then applies an activation.
pub(super) fn bounded(v: &mut [f32], limit: f32, activation: Activation) {
    if limit.is_finite() {
        v.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
    }
    activation.run(v);
}
