//! Recurrent layers over `[sequence, batch, features, 1, 1]`.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::activation::{Activation, Nonlinearity};
use coreml_format::model_types::neural_network::recurrent::{
    BiDirectionalLstm, Gru, LstmParams, LstmWeightParams, SimpleRecurrent, UniDirectionalLstm,
};
use coreml_format::model_types::neural_network::weights::WeightParams;
use coreml_format::program::{Argument, Binding};

use super::build::{Blob, Extent, Network, all, flag, float, floats, int, ints, of, tensor};
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;
type Params = Option<Box<WeightParams>>;

/// Bound of what activations take, and of the cell state if the file does not say.
const LIMIT: f32 = 50.0;

/// The input as `[sequence, batch, features]`.
fn steps(n: &mut Network, x: &Blob, size: u64) -> Lowered<Blob> {
    let x = n.full(x);
    let [sequence, batch, width, h, w] = *x.shape else {
        return n.refuse(format!("its input has rank {}", x.shape.len()));
    };
    if [h, w].iter().any(|d| d.is_some_and(|d| d != 1)) || width.is_some_and(|d| d as u64 != size) {
        return n.refuse(format!("{size} features for a blob of {}", super::build::shown(&x.shape)));
    }
    Ok(n.op("squeeze", vec![("x", of(&x)), ("axes", ints(&[3, 4]))], vec![sequence, batch, width]))
}

/// A state `[1, batch, features, 1, 1]` as `[batch, features]`. coremltools writes `[batch, features, 1, 1, 1]` for some
/// layers, with the elements in the same order.
fn state(n: &mut Network, layer: &NeuralNetworkLayer, i: usize, size: u64) -> Lowered<Blob> {
    let x = n.input(layer, i)?;
    let x = n.full(&x);
    let is = |d: Extent, size: u64| d.is_none_or(|d| d as u64 == size);
    let batch = match *x.shape {
        [one, batch, width, Some(1), Some(1)] if is(one, 1) && is(width, size) => batch,
        [batch, width, Some(1), Some(1), Some(1)] if is(width, size) => batch,
        _ => return n.refuse(format!("{size} features for a state of {}", super::build::shown(&x.shape))),
    };
    let width = n.count(&[size])?;
    n.reshape(&x, vec![batch, Some(width)])
}

/// `[sequence, batch, features]` or `[batch, features]` as a blob.
fn blob(n: &mut Network, x: &Blob) -> Blob {
    let mut shape = x.shape.clone();
    let mut axes = vec![-2, -1];
    if shape.len() == 2 {
        shape.insert(0, Some(1));
        axes.insert(0, 0);
    }
    shape.extend([Some(1), Some(1)]);
    n.op("expand_dims", vec![("x", of(x)), ("axes", ints(&axes))], shape)
}

/// An activation under the name of a parameter.
fn activation(n: &Network, name: &'static str, a: Option<&Activation>) -> Lowered<Vec<(&'static str, Argument)>> {
    let numbers = match name {
        "activation" => "activation_parameters",
        "cell_activation" => "cell_activation_parameters",
        _ => "recurrent_activation_parameters",
    };
    // Layers that say nothing have the usual constants; those of a scaled tanh are 1, by coremltools' test of `lstm`.
    let both = |alpha: f32, beta: f32, usual: [f32; 2]| {
        let given = if alpha == 0.0 && beta == 0.0 { usual } else { [alpha, beta] };
        Some((numbers, floats(&given)))
    };
    let (word, parameters) = match a.and_then(|a| a.function.as_ref()) {
        Some(Nonlinearity::Linear(p)) => ("linear", both(p.alpha, p.beta, [1.0, 0.0])),
        Some(Nonlinearity::Sigmoid(_)) => ("sigmoid", None),
        Some(Nonlinearity::Tanh(_)) => ("tanh", None),
        Some(Nonlinearity::Relu(_)) => ("relu", None),
        Some(Nonlinearity::ScaledTanh(p)) => ("scaled_tanh", both(p.alpha, p.beta, [1.0, 1.0])),
        Some(Nonlinearity::SigmoidHard(p)) => ("sigmoid_hard", both(p.alpha, p.beta, [0.2, 0.5])),
        Some(_) => return n.refuse("recurrent layers do not have its activation"),
        None => return n.refuse("it lacks an activation"),
    };
    Ok([(name, text(word))].into_iter().chain(parameters).collect())
}

/// The last steps, or all.
fn results(sequence: bool, x: &Blob, out: u64) -> (Vec<Extent>, Vec<Extent>) {
    let (batch, out) = (x.shape[1], Some(out as usize));
    (vec![if sequence { x.shape[0] } else { Some(1) }, batch, out], vec![batch, out])
}

/// Matrices of gates, in order.
fn matrices(n: &mut Network, parts: &[(&str, &Params)], rows: u64, columns: u64) -> Lowered<Argument> {
    let made = parts.iter().map(|(what, p)| n.matrix(what, p, rows, columns)).collect::<Lowered<Vec<_>>>()?;
    Ok(Argument::Many(made.into_iter().map(|b| Binding::Name(b.name)).collect()))
}

/// Vectors of gates, joined.
fn vectors(n: &mut Network, parts: &[(&str, &Params)], size: u64, more: &[f32]) -> Lowered<Argument> {
    let count = n.count(&[size])?;
    let mut joined = Vec::new();
    for (i, (what, p)) in parts.iter().enumerate() {
        let add = more.get(i).copied().unwrap_or(0.0);
        joined.extend(n.weights(what, p, count, count)?.iter().map(|v| v + add));
    }
    let made = n.constant(&[joined.len()], &joined);
    Ok(of(&made))
}

fn direction(reverse: bool) -> (&'static str, Argument) {
    ("direction", text(if reverse { "reverse" } else { "forward" }))
}

/// Writes the outputs that the layer has of those that it can have.
fn write(n: &mut Network, layer: &NeuralNetworkLayer, mut made: Vec<Blob>) -> Lowered<()> {
    if layer.output.is_empty() || layer.output.len() > made.len() {
        return n.refuse(format!("it has {} outputs", layer.output.len()));
    }
    made.truncate(layer.output.len());
    n.write(layer, made)
}

/// Adds a recurrent operation of one or two states.
fn cell(
    n: &mut Network,
    kind: &str,
    x: &Blob,
    (sequence, out): (bool, u64),
    states: usize,
    mut inputs: Vec<(&str, Argument)>,
) -> Vec<Blob> {
    let (all, last) = results(sequence, x, out);
    inputs.insert(0, ("x", of(x)));
    inputs.extend([("output_sequence", flag(sequence)), ("limit", float(LIMIT))]);
    let shapes: Vec<Vec<Extent>> = [all].into_iter().chain(vec![last; states]).collect();
    let names = n.push(kind, inputs, shapes.iter().map(|s| tensor(DataType::F32, s)).collect());
    names.into_iter().zip(shapes).map(|(name, shape)| Blob { name, shape, short: false }).collect()
}

/// Initial states, if the layer has them as inputs.
fn states<'n>(
    n: &mut Network,
    layer: &NeuralNetworkLayer,
    first: usize,
    names: &[&'n str],
    size: u64,
) -> Lowered<Vec<(&'n str, Argument)>> {
    if layer.input.len() == 1 {
        return Ok(Vec::new());
    }
    let made = names.iter().enumerate().map(|(i, name)| Ok((*name, of(&state(n, layer, first + i, size)?))));
    made.collect()
}

fn arity(n: &Network, layer: &NeuralNetworkLayer, most: usize) -> Lowered<()> {
    match layer.input.len() {
        count if count == 1 || count == most => Ok(()),
        count => n.refuse(format!("it has {count} inputs")),
    }
}

pub(super) fn simple(n: &mut Network, layer: &NeuralNetworkLayer, p: &SimpleRecurrent) -> Lowered<()> {
    arity(n, layer, 2)?;
    let (size, out) = (p.input_vector_size, p.output_vector_size);
    let x = n.input(layer, 0)?;
    let x = steps(n, &x, size)?;
    let mut inputs = states(n, layer, 1, &["initial_h"], out)?;
    inputs.extend([
        ("weight_ih", matrices(n, &[("weightMatrix", &p.weight_matrix)], out, size)?),
        ("weight_hh", matrices(n, &[("recursionMatrix", &p.recursion_matrix)], out, out)?),
        direction(p.reverse_input),
    ]);
    if p.has_bias_vector {
        inputs.push(("bias", vectors(n, &[("biasVector", &p.bias_vector)], out, &[])?));
    }
    inputs.extend(activation(n, "activation", p.activation.as_ref())?);
    let made = cell(n, "engine.rnn", &x, (p.sequence_output, out), 1, inputs);
    let made = made.iter().map(|b| blob(n, b)).collect();
    write(n, layer, made)
}

pub(super) fn gru(n: &mut Network, layer: &NeuralNetworkLayer, p: &Gru) -> Lowered<()> {
    arity(n, layer, 2)?;
    let (size, out) = (p.input_vector_size, p.output_vector_size);
    let x = n.input(layer, 0)?;
    let x = steps(n, &x, size)?;
    let mut inputs = states(n, layer, 1, &["initial_h"], out)?;
    let weights = [
        ("resetGateWeightMatrix", &p.reset_gate_weight_matrix),
        ("outputGateWeightMatrix", &p.output_gate_weight_matrix),
        ("updateGateWeightMatrix", &p.update_gate_weight_matrix),
    ];
    let recursion = [
        ("resetGateRecursionMatrix", &p.reset_gate_recursion_matrix),
        ("outputGateRecursionMatrix", &p.output_gate_recursion_matrix),
        ("updateGateRecursionMatrix", &p.update_gate_recursion_matrix),
    ];
    let bias = [
        ("resetGateBiasVector", &p.reset_gate_bias_vector),
        ("outputGateBiasVector", &p.output_gate_bias_vector),
        ("updateGateBiasVector", &p.update_gate_bias_vector),
    ];
    inputs.extend([
        ("weight_ih", matrices(n, &weights, out, size)?),
        ("weight_hh", matrices(n, &recursion, out, out)?),
        direction(p.reverse_input),
    ]);
    if p.has_bias_vectors {
        inputs.push(("bias", vectors(n, &bias, out, &[])?));
    }
    inputs.extend(activation(n, "recurrent_activation", p.activations.first())?);
    inputs.extend(activation(n, "activation", p.activations.get(1))?);
    let made = cell(n, "engine.gru", &x, (p.sequence_output, out), 1, inputs);
    let made = made.iter().map(|b| blob(n, b)).collect();
    write(n, layer, made)
}

/// One direction of an LSTM: its results, the last state and the last cell.
fn lstm(
    n: &mut Network,
    x: &Blob,
    (size, out): (u64, u64),
    (params, weights, activations): (LstmParams, &LstmWeightParams, &[Activation]),
    reverse: bool,
    mut inputs: Vec<(&str, Argument)>,
) -> Lowered<Vec<Blob>> {
    let w = weights;
    let input = [
        ("inputGateWeightMatrix", &w.input_gate_weight_matrix),
        ("forgetGateWeightMatrix", &w.forget_gate_weight_matrix),
        ("outputGateWeightMatrix", &w.output_gate_weight_matrix),
        ("blockInputWeightMatrix", &w.block_input_weight_matrix),
    ];
    let recursion = [
        ("inputGateRecursionMatrix", &w.input_gate_recursion_matrix),
        ("forgetGateRecursionMatrix", &w.forget_gate_recursion_matrix),
        ("outputGateRecursionMatrix", &w.output_gate_recursion_matrix),
        ("blockInputRecursionMatrix", &w.block_input_recursion_matrix),
    ];
    let bias = [
        ("inputGateBiasVector", &w.input_gate_bias_vector),
        ("forgetGateBiasVector", &w.forget_gate_bias_vector),
        ("outputGateBiasVector", &w.output_gate_bias_vector),
        ("blockInputBiasVector", &w.block_input_bias_vector),
    ];
    let peepholes = [
        ("inputGatePeepholeVector", &w.input_gate_peephole_vector),
        ("forgetGatePeepholeVector", &w.forget_gate_peephole_vector),
        ("outputGatePeepholeVector", &w.output_gate_peephole_vector),
    ];
    inputs.extend([
        ("weight_ih", matrices(n, &input, out, size)?),
        ("weight_hh", matrices(n, &recursion, out, out)?),
        direction(reverse),
        ("coupled", flag(params.coupled_input_and_forget_gate)),
    ]);
    let forget = [0.0, if params.forget_bias { 1.0 } else { 0.0 }];
    if params.has_bias_vectors {
        inputs.push(("bias", vectors(n, &bias, out, &forget)?));
    } else if params.forget_bias {
        let count = n.count(&[out])?;
        n.claim("biases", count.saturating_mul(4))?;
        let values: Vec<f32> = (0..4 * count).map(|i| if i / count == 1 { 1.0 } else { 0.0 }).collect();
        inputs.push(("bias", of(&n.constant(&[values.len()], &values))));
    }
    if params.has_peephole_vectors {
        inputs.push(("peephole", vectors(n, &peepholes, out, &[])?));
    }
    let clip = if params.cell_clip_threshold == 0.0 { LIMIT } else { params.cell_clip_threshold };
    inputs.push(("clip", float(clip)));
    for (i, name) in ["recurrent_activation", "cell_activation", "activation"].into_iter().enumerate() {
        inputs.extend(activation(n, name, activations.get(i))?);
    }
    Ok(cell(n, "engine.lstm", x, (params.sequence_output, out), 2, inputs))
}

const STATES: [&str; 2] = ["initial_h", "initial_c"];

pub(super) fn one_direction(n: &mut Network, layer: &NeuralNetworkLayer, p: &UniDirectionalLstm) -> Lowered<()> {
    arity(n, layer, 3)?;
    let (size, out) = (p.input_vector_size, p.output_vector_size);
    let x = n.input(layer, 0)?;
    let x = steps(n, &x, size)?;
    let Some(weights) = &p.weight_params else { return n.refuse("it lacks `weightParams`") };
    let before = states(n, layer, 1, &STATES, out)?;
    let settings = (p.params.unwrap_or_default(), weights, &p.activations[..]);
    let made = lstm(n, &x, (size, out), settings, p.reverse_input, before)?;
    let made = made.iter().map(|b| blob(n, b)).collect();
    write(n, layer, made)
}

pub(super) fn both_directions(n: &mut Network, layer: &NeuralNetworkLayer, p: &BiDirectionalLstm) -> Lowered<()> {
    arity(n, layer, 5)?;
    let (size, out) = (p.input_vector_size, p.output_vector_size);
    let x = n.input(layer, 0)?;
    let x = steps(n, &x, size)?;
    let [forward, backward] = &p.weight_params[..] else {
        return n.refuse(format!("{} `weightParams` for two directions", p.weight_params.len()));
    };
    let params = p.params.unwrap_or_default();
    let mut results = Vec::with_capacity(2);
    for (i, (weights, activations)) in
        [(forward, &p.activations_forward_lstm), (backward, &p.activations_backward_lstm)].into_iter().enumerate()
    {
        let before = states(n, layer, 1 + 2 * i, &STATES, out)?;
        results.push(lstm(n, &x, (size, out), (params, weights, activations), i == 1, before)?);
    }
    if params.sequence_output {
        // Results of the reversed sequence, in its order.
        let last = results[1][0].clone();
        results[1][0] = n.map("reverse", &last, vec![("axes", ints(&[0]))]);
    }
    let mut shape = results[0][0].shape.clone();
    shape[2] = Some(n.count(&[out, 2])?);
    let parts = [results[0][0].clone(), results[1][0].clone()];
    let y = n.op("concat", vec![("values", all(&parts)), ("axis", int(2)), ("interleave", flag(false))], shape);
    let mut made = vec![blob(n, &y)];
    for last in results.iter().flat_map(|r| &r[1..]) {
        made.push(blob(n, last));
    }
    write(n, layer, made)
}
